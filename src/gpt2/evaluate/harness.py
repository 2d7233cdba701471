"""Our models in lm-evaluation-harness: its tasks, its numbers, our speed.

lm_eval.simple_evaluate(model=for_harness(gpt2.load("gpt2-mini", weights="fp32")), tasks=["lambada_openai"])
"""

import math
from collections.abc import Sequence
from typing import Any

from gpt2.errors import MissingExtraError
from gpt2.evaluate.answering import groups
from gpt2.evaluate.language_modelling import windows
from gpt2.generation.targets import Target, TargetScore, score_targets
from gpt2.language_model import LanguageModel


def for_harness(model: LanguageModel) -> Any:
    """The model as an `lm_eval.api.model.LM`, which `lm_eval.simple_evaluate` takes.

    Raises:
        MissingExtraError: lm_eval is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError.of("The harness cannot run the model", package="lm_eval", extra="referees") from None
    eot = model.tokenizer.eot
    n_positions = model.config.n_positions
    assert eot is not None, "the harness begins texts with the end-of-text token"

    class Adapter(TemplateLM):  # pyright: ignore[reportUntypedBaseClass]
        """Answers the harness's three kinds of request."""

        @property
        def eot_token_id(self) -> int:
            return eot

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return model.tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            scores = score_all(model, [_target(before, after, n_positions) for _, before, after in requests])
            return [(math.fsum(score.logprobs), max(score.ranks) == 0) for score in scores]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            parts = [
                list(windows(self.tok_encode(text), eot=eot, n_positions=n_positions, stride=n_positions, full=True))
                for (text,) in (request.args for request in requests)
            ]
            scores = iter(score_all(model, [part for each in parts for part in each]))
            return [math.fsum(logprob for _ in each for logprob in next(scores).logprobs) for each in parts]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            written: list[str] = []
            for prompt, settings in (request.args for request in requests):
                until = settings.get("until") or []
                sampled = settings.get("do_sample", False)
                completion = model.generate(
                    prompt,
                    max_tokens=settings.get("max_gen_toks", 256),
                    temperature=settings.get("temperature", 1.0) if sampled else 0.0,
                    stop=tuple([until] if isinstance(until, str) else until),
                    truncate_prompt=True,
                    seed=0,
                )
                written.append(completion.text)
            return written

    return Adapter()


def score_all(model: LanguageModel, targets: Sequence[Target]) -> list[TargetScore]:
    """Score any number of targets, grouped so that steps are full and shared beginnings are computed once."""
    found: dict[int, TargetScore] = {}
    for group in groups(targets, range(len(targets))):
        found.update(zip(group, score_targets(model.backend, [targets[i] for i in group]), strict=True))
    return [found[i] for i in range(len(targets))]


def _target(before: Sequence[int], after: Sequence[int], n_positions: int) -> Target:
    """A request cut as the harness does: at its beginning, to fit the context."""
    after = tuple(after)[-n_positions:]
    return Target(context=tuple(before)[-(n_positions - len(after) + 1) :], targets=after)
