"""Known answers of the published weights: published results of other people's code.

`known_answers.json` holds, for each of the four sizes, greedy continuations, a logit, losses and token probabilities,
each with its public source and that source's licence. A model that gives them all is the published one, computed
correctly; one that gives none is another model of the same shape, or computed incorrectly.

Tolerances cover the rounding of the printed values and the order of the sums in other people's kernels, nothing else.
For the two largest sizes little is published: for 774M, that each token of a contrastive search was among the four
likeliest; for 1558M, the mean log-likelihood of texts it had written.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import PUBLISHED
from gpt2.errors import BackendError, MismatchError
from gpt2.files import read_json
from gpt2.generation.targets import Target, score_targets
from gpt2.language_model import LanguageModel

Progress = Callable[[str], None]

_FILE = Path(__file__).with_name("known_answers.json")
_ROUNDED_NLL = 0.1  # by how much rounding the weights may change a loss


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: what is checked.
        passed: whether it passed; None if it cannot be compared, and `found` says why.
        expected: what it must be, in words.
        found: what it is.
        source: of the expectation.
    """

    name: str
    passed: bool | None
    expected: str
    found: str
    source: str = ""


def known_answers(name: str) -> list[dict[str, Any]]:
    """The known answers of a published model, as in the file."""
    assert name in PUBLISHED
    return [answer for answer in read_json(_FILE) if answer["model"] == name]


def check_answers(
    model: LanguageModel, answers: Sequence[dict[str, Any]], *, rounded: str | None = None
) -> Iterator[Check]:
    """Compare a model's answers with the known ones, one after the other.

    Args:
        model: on a backend that holds the weights in fp32.
        answers: of `known_answers`.
        rounded: the form to which the weights were rounded, if any: then only losses are compared, and loosely.

    Raises:
        MismatchError: the model does not have the vocabulary and context of a published one.
    """
    kinds = {
        "greedy": _check_greedy,
        "logit": _check_logit,
        "mean_nll": _check_mean_nll,
        "probabilities": _check_probabilities,
        "among_best": _check_among_best,
    }
    for answer in answers:
        if rounded is None:
            yield kinds[answer["kind"]](model, answer)
        elif answer["kind"] == "mean_nll":
            yield _check_mean_nll(model, answer | {"tolerance": _ROUNDED_NLL})
        else:
            yield _check(answer, None, "", f"not compared: the weights are rounded, to {rounded}")


def check_shape(model: LanguageModel, name: str) -> None:
    """Refuse to compare with a published model of another shape.

    Raises:
        MismatchError: the model's shape is not that of the published one.
    """
    published, found = (dataclasses.asdict(config) for config in (PUBLISHED[name], model.config))
    if other := [f"{key} {found[key]} for {value}" for key, value in published.items() if found[key] != value]:
        raise MismatchError(f"This is not {name}: it has {', '.join(other)}.")


def _check(answer: dict[str, Any], passed: bool | None, expected: str, found: str) -> Check:
    return Check(name=answer["name"], passed=passed, expected=expected, found=found, source=answer["source"])


def _check_greedy(model: LanguageModel, answer: dict[str, Any]) -> Check:
    expected = answer["continuation"]
    events = model.stream(answer["ids"], max_tokens=len(expected), temperature=0.0, ignore_eot=True)
    found = [event.token for event in events if event.token is not None]
    same = next((i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), len(expected))
    text = repr(model.tokenizer.decode(expected))
    if same == len(expected):
        return _check(answer, True, text, f"all {same} tokens the same")
    return _check(answer, False, text, f"{model.tokenizer.decode(found)!r}, another after {same} tokens")


def _check_logit(model: LanguageModel, answer: dict[str, Any]) -> Check:
    logits = model.logits(answer["ids"])[-1]
    found, first = float(logits[answer["token"]]), int(np.argmax(logits))
    passed = first == answer["token"] and abs(found - answer["value"]) <= answer["tolerance"]
    unlike = "" if first == answer["token"] else f", and {first} is likelier than {answer['token']}"
    return _check(answer, passed, f"{answer['value']:.4f} ± {answer['tolerance']:g}", f"{found:.4f}{unlike}")


def _check_mean_nll(model: LanguageModel, answer: dict[str, Any]) -> Check:
    logprobs = [logprob for ids in answer["rows"] for logprob in _score(model, ids, 1)[0]]
    found = -math.fsum(logprobs) / len(logprobs)
    passed = abs(found - answer["value"]) <= answer["tolerance"]
    return _check(answer, passed, f"{answer['value']:.5f} ± {answer['tolerance']:g}", f"{found:.5f}")


def _check_probabilities(model: LanguageModel, answer: dict[str, Any]) -> Check:
    logprobs, _ = _score(model, answer["ids"], 1)
    difference = float(np.max(np.abs(np.exp(logprobs) - answer["values"])))
    passed = difference <= answer["tolerance"]
    return _check(answer, passed, f"each ± {answer['tolerance']:g}", f"the largest difference is {difference:.5f}")


def _check_among_best(model: LanguageModel, answer: dict[str, Any]) -> Check:
    _, ranks = _score(model, answer["ids"], answer["first"])
    outside = sum(rank >= answer["best"] for rank in ranks)
    expected = f"{len(ranks)} of {len(ranks)}"
    return _check(answer, outside == 0, expected, f"{len(ranks) - outside} of {len(ranks)}")


def _score(model: LanguageModel, ids: Sequence[int], first: int) -> tuple[Sequence[float], Sequence[int]]:
    """Log-probabilities and ranks of the tokens from `first` on."""
    [score] = score_targets(model.backend, [Target(context=tuple(ids[:first]), targets=tuple(ids[first:]))])
    return score.logprobs, score.ranks


def check_integrity(model: LanguageModel, *, progress: Progress = lambda what: None) -> Iterator[Check]:
    """Checks that any GPT-2 must pass: finite weights, a fitting vocabulary, and a finite loss.

    Args:
        model: opened.
        progress: called with the name of each array.
    """
    weights = model.checkpoint.weights
    wrong: list[str] = []
    for name in weights.names:
        progress(name)
        if not all(np.isfinite(block.float32()).all() for block in weights.stored(name).blocks()):
            wrong.append(name)
    found = f"not in {', '.join(wrong[:3])}" if wrong else f"{len(weights.names)} arrays of {weights.form}"
    yield Check(name="weights are finite", passed=not wrong, expected="every value a number", found=found)
    yield _check_vocabulary(model)
    progress("loss")
    yield _check_loss(model)


def _check_vocabulary(model: LanguageModel) -> Check:
    tokenizer, text = model.tokenizer, "Hello world! 1234, naïve 日本語 \U0001f600\n\n\tend"
    back = tokenizer.decode(tokenizer.encode(text))
    size = f"{tokenizer.vocab_size:,} of the model's {model.config.vocab_size:,} ids"
    return Check(
        name="vocabulary is the model's",
        passed=back == text and tokenizer.vocab_size <= model.config.vocab_size,
        expected="text round-trips, and every id has a row",
        found=size if back == text else f"{back!r}, {size}",
    )


def _check_loss(model: LanguageModel) -> Check:
    """Check for better than chance on plain English, which fails if weights are read in a wrong order."""
    text, chance = "The cat sat on the mat, and the dog lay in the sun.", math.log(model.config.vocab_size)
    name, expected = "loss of an English sentence", f"below chance, {chance:.2f}"
    ids = model.tokenizer.encode(text)[: model.config.n_positions]
    if len(ids) < 2:
        return Check(name=name, passed=None, expected=expected, found="too small a context")
    try:
        loss = -math.fsum(_score(model, ids, 1)[0]) / (len(ids) - 1)
    except BackendError as error:
        return Check(name=name, passed=False, expected=expected, found=str(error))
    if loss < chance:
        return Check(name=name, passed=True, expected=expected, found=f"{loss:.4f}")
    passed = None if math.isfinite(loss) else False
    found = f"{loss:.4f}: it is not trained, not on English, or its matrices are in disorder"
    return Check(name=name, passed=passed, expected=expected, found=found)
