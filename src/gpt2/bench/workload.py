"""The workload that is timed, and the interface of engines: read prompts, then decode greedily."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Engine(Protocol):
    """Software with a model loaded, to be measured."""

    vocab_size: int
    n_positions: int

    def prefill(self, prompts: list[list[int]]) -> None:
        """Read prompts of equal length as one batch, from nothing, and find the most likely next token of each."""
        ...

    def decode(self, n_tokens: int) -> None:
        """Continue the batch last read greedily, by `n_tokens` for each prompt."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The sizes of what is timed; `fitting` cuts them to a model's context.

    Attributes:
        prompt_tokens: read before decoding.
        decode_tokens: then decoded, and timed, for each sequence.
        prefill_tokens: length of the prompt whose reading is timed.
        batch: sequences decoded at once in the batched figure.
        contexts: lengths of text after which to decode and time `context_tokens` more.
        context_tokens: see `contexts`.
    """

    prompt_tokens: int = 128
    decode_tokens: int = 64
    prefill_tokens: int = 1000
    batch: int = 16
    contexts: tuple[int, ...] = ()
    context_tokens: int = 16

    def fitting(self, n_positions: int) -> "Workload":
        """The same within a context of `n_positions`."""
        decode = min(self.decode_tokens, n_positions // 2)
        return Workload(
            prompt_tokens=min(self.prompt_tokens, n_positions - decode),
            decode_tokens=decode,
            prefill_tokens=min(self.prefill_tokens, n_positions),
            batch=self.batch,
            contexts=tuple(each for each in self.contexts if each + self.context_tokens <= n_positions),
            context_tokens=self.context_tokens,
        )


def run_once(engine: Engine, workload: Workload, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """One round: tokens per second of decoding alone, of reading a prompt, and of decoding a batch.

    The prompts are the same for every engine: drawn uniformly from the vocabulary with a fixed seed, since the text
    does not change how much there is to compute.
    """
    sizes = workload.fitting(engine.n_positions)
    draw = random.Random(0)

    def prompts(n: int, length: int) -> list[list[int]]:
        return [[draw.randrange(engine.vocab_size) for _ in range(length)] for _ in range(n)]

    def seconds(action: Callable[[], None]) -> float:
        begin = clock()
        action()
        return clock() - begin

    long_prompt = prompts(1, sizes.prefill_tokens)
    prefill = sizes.prefill_tokens / seconds(lambda: engine.prefill(long_prompt))
    engine.prefill(prompts(1, sizes.prompt_tokens))
    decode = sizes.decode_tokens / seconds(lambda: engine.decode(sizes.decode_tokens))
    engine.prefill(prompts(sizes.batch, sizes.prompt_tokens))
    batched = sizes.batch * sizes.decode_tokens / seconds(lambda: engine.decode(sizes.decode_tokens))
    figures = {"decode": decode, "prefill": prefill, "batch": batched}
    for length in sizes.contexts:
        engine.prefill(prompts(1, length))
        figures[f"decode_after_{length}"] = sizes.context_tokens / seconds(lambda: engine.decode(sizes.context_tokens))
    return figures
