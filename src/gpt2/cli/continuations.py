"""Writing continuations, as text or as JSON, and reporting their speed."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.cli import output

if TYPE_CHECKING:
    from gpt2.generation import Completion, Sampling, TokenLogprob, Usage
    from gpt2.language_model import LanguageModel
    from gpt2.tokenizer import Tokenizer

log = logging.getLogger("gpt2")


class Writer:
    """Writes continuations and counts their tokens."""

    def __init__(self, model: "LanguageModel", *, as_json: bool, draft: str) -> None:
        self._model = model
        self._as_json = as_json
        self._draft = draft
        self._drafted = 0
        self._accepted = 0
        self._tokens = 0
        self._written = 0
        self._seconds = 0.0  # of generating, not of waiting for someone to type

    def one(self, prompt: str, sampling: "Sampling", *, tell: Callable[[str], object] = lambda text: None) -> None:
        """Write one prompt's continuations, streaming if possible, and pass the (first) text to `tell`."""
        if not self._as_json and sampling.candidates == 1 and sampling.logprobs is None:
            self._stream(prompt, sampling, tell)
            return
        begin = time.perf_counter()
        completion = self._model.generate(prompt, sampling, draft=self._draft)
        self._seconds += time.perf_counter() - begin
        self._count(completion)
        self._write(completion)
        tell(completion.text)

    def many(self, prompts: Iterable[str], sampling: "Sampling") -> None:
        """Write the continuations of all prompts, in order; those before a failing prompt are kept."""
        done = 0
        begin = time.perf_counter()
        # Closed here, however the writing ends: its slots must be freed before the model is closed.
        with contextlib.closing(self._model.generate_each(prompts, sampling, draft=self._draft)) as completions:
            for completion in completions:
                done += 1
                self._seconds += time.perf_counter() - begin
                self._count(completion)
                self._write(completion)
                begin = time.perf_counter()
        if not done:
            log.warning("nothing was written: the file holds no prompt")

    def _stream(self, prompt: str, sampling: "Sampling", tell: Callable[[str], object]) -> None:
        any_came = False
        begin = time.perf_counter()
        try:
            for event in self._model.stream(prompt, sampling, draft=self._draft):
                self._tokens += event.token is not None
                self._count_drafts(event.usage)
                any_came = True
                tell(event.text)
                output.write(event.text)
        finally:
            self._seconds += time.perf_counter() - begin
            output.write("\n" if any_came else "")  # ends the line of interrupted text

    def _count(self, completion: "Completion") -> None:
        self._tokens += sum(len(sample.tokens) for sample in completion.samples)
        self._count_drafts(completion.usage)

    def _count_drafts(self, usage: "Usage | None") -> None:
        if usage is not None:
            self._drafted += usage.drafted_tokens
            self._accepted += usage.accepted_tokens

    def _write(self, completion: "Completion") -> None:
        tokenizer = self._model.tokenizer
        if self._as_json:
            output.write_json(_described(completion, tokenizer))
            return
        for sample in completion.samples:
            output.write(f"---\n{sample.text}\n" if self._written else f"{sample.text}\n")
            self._written += 1
            if sample.logprobs is not None:
                output.write(_table(sample.logprobs, tokenizer) + "\n")

    def summarise(self, *, seed: int | None, was_piped: bool) -> None:
        """Report how much was generated and how fast, and, for a random `seed`, how to repeat it."""
        if not self._tokens:
            return
        rate = self._tokens / self._seconds
        drafts = f"; {self._accepted:,} of {self._drafted:,} drafted tokens were right" if self._drafted else ""
        log.info("%s in %.2f s, %.1f tokens/s%s", output.counted(self._tokens, "token"), self._seconds, rate, drafts)
        if seed is not None:
            import shlex
            import shutil

            called, *said = sys.argv  # .venv/bin/gpt2, as make demo calls it, is not found as gpt2
            command = called if Path(called).name == "gpt2" and shutil.which("gpt2") is None else "gpt2"
            end = said.index("--") if "--" in said else len(said)  # no options after it
            log.info(
                "to repeat%s: %s",
                ", with the same input" if was_piped else "",
                shlex.join([command, *said[:end], "--seed", str(seed), *said[end:]]),
            )


def _table(logprobs: "Iterable[TokenLogprob]", tokenizer: "Tokenizer") -> str:
    """A line for each token, with the most likely ones at its place in columns of their own."""

    def both(token: int, logprob: float | None) -> tuple[str, str]:
        return tokenizer.decode([token]), f"{logprob:.3f}"

    rows = [(*both(each.token, each.logprob), *(cell for one in each.top for cell in both(*one))) for each in logprobs]
    n_top = max((len(row) for row in rows), default=2) // 2 - 1
    heading = ("piece", "logprob", *(cell for k in range(1, n_top + 1) for cell in (f"likeliest {k}", "logprob")))
    rows = [row + ("",) * (len(heading) - len(row)) for row in rows]
    return output.table([heading, *rows], right=range(1, len(heading), 2))


def _described(completion: "Completion", tokenizer: "Tokenizer") -> dict[str, Any]:
    def listed(logprobs: "Iterable[TokenLogprob]") -> list[dict[str, Any]]:
        return [
            {
                "token": each.token,
                "piece": tokenizer.decode([each.token]),
                "logprob": each.logprob,
                "top": [{"token": token, "logprob": logprob} for token, logprob in each.top],
            }
            for each in logprobs
        ]

    samples: list[dict[str, Any]] = []
    for sample in completion.samples:
        found: dict[str, Any] = {
            "text": sample.text,
            "tokens": sample.tokens,
            "finish_reason": sample.finish_reason,
            "stop_reason": sample.stop_reason,
        }
        if sample.logprobs is not None:
            found["logprobs"] = listed(sample.logprobs)
        samples.append(found)
    described: dict[str, Any] = {
        "prompt": completion.prompt,
        "samples": samples,
        "seed": completion.seed,
        "usage": dataclasses.asdict(completion.usage),
    }
    if completion.prompt_logprobs is not None:
        described["prompt_logprobs"] = listed(completion.prompt_logprobs)
    return described
