"""What is timed is exactly what the figures say, by a clock that only the engine moves."""

import pytest

from gpt2.bench.workload import Workload, run_once


class Counting:
    """Takes a second for each token decoded, and a tenth for each read."""

    vocab_size = 100
    n_positions = 200

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, int, int]] = []
        self.prompts: list[list[list[int]]] = []
        self._sequences = 0

    def prefill(self, prompts: list[list[int]]) -> None:
        self._sequences = len(prompts)
        self.prompts.append(prompts)
        self.calls.append(("prefill", len(prompts), len(prompts[0])))
        self.now += 0.1 * sum(map(len, prompts))

    def decode(self, n_tokens: int) -> None:
        self.calls.append(("decode", self._sequences, n_tokens))
        self.now += n_tokens


def test_the_figures_count_tokens_over_the_time_of_their_own_part() -> None:
    engine = Counting()
    figures = run_once(
        engine, Workload(prompt_tokens=20, decode_tokens=8, prefill_tokens=50, batch=4), lambda: engine.now
    )
    assert figures == {"decode": pytest.approx(1), "prefill": pytest.approx(10), "batch": pytest.approx(4)}
    assert engine.calls == [
        ("prefill", 1, 50),
        ("prefill", 1, 20),
        ("decode", 1, 8),
        ("prefill", 4, 20),
        ("decode", 4, 8),
    ]


def test_decoding_after_longer_texts_is_a_figure_of_its_own() -> None:
    engine = Counting()
    workload = Workload(
        prompt_tokens=20, decode_tokens=8, prefill_tokens=50, batch=4, contexts=(10, 190), context_tokens=5
    )
    figures = run_once(engine, workload, lambda: engine.now)
    assert figures["decode_after_10"] == pytest.approx(1)
    assert "decode_after_190" in figures
    assert engine.calls[-4:] == [("prefill", 1, 10), ("decode", 1, 5), ("prefill", 1, 190), ("decode", 1, 5)]
    assert "decode_after_190" not in run_once(engine, workload.fitting(100), lambda: engine.now)


def test_every_engine_reads_the_same_prompts() -> None:
    one, other = Counting(), Counting()
    for engine in (one, other):
        run_once(engine, Workload(prompt_tokens=20, prefill_tokens=50), lambda engine=engine: engine.now)
    assert one.prompts == other.prompts
    assert all(0 <= token < 100 for prompts in one.prompts for prompt in prompts for token in prompt)


@pytest.mark.parametrize("n_positions", [1, 2, 7, 64, 1024, 5000])
def test_a_workload_fits_the_context(n_positions: int) -> None:
    fitting = Workload(prompt_tokens=100, decode_tokens=60, prefill_tokens=1000).fitting(n_positions)
    assert fitting.prompt_tokens >= 1
    assert fitting.prompt_tokens + fitting.decode_tokens <= n_positions
    assert 1 <= fitting.prefill_tokens <= n_positions
    if n_positions == 5000:
        assert fitting == Workload(prompt_tokens=100, decode_tokens=60, prefill_tokens=1000)
