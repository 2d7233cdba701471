import itertools
import math

import pytest

from gpt2.optim import cosine, stage, trapezoid, warm_momentum


def test_cosine_at_its_landmarks() -> None:
    assert cosine(0.0, warmup=0.1) == 0.0
    assert cosine(0.05, warmup=0.1) == pytest.approx(0.5)
    assert cosine(0.1, warmup=0.1, final=0.1) == pytest.approx(1.0)
    assert cosine(0.55, warmup=0.1, final=0.1) == pytest.approx(0.55)
    assert cosine(1.0, warmup=0.1, final=0.1) == pytest.approx(0.1)
    assert cosine(0.0) == 1.0


def test_trapezoid_at_its_landmarks() -> None:
    assert trapezoid(0.0, warmup=0.2) == 0.0
    assert trapezoid(0.1, warmup=0.2) == pytest.approx(0.5)
    assert [trapezoid(x, warmup=0.2, decay=0.4) for x in (0.2, 0.5, 0.6)] == [1.0, 1.0, 1.0]
    assert trapezoid(0.8, decay=0.4) == pytest.approx(0.5)
    assert trapezoid(1.0, decay=0.4) == 0.0
    assert trapezoid(1.0, decay=0.4, final=0.1) == pytest.approx(0.1)


def test_past_the_end_both_stay_at_the_end() -> None:
    assert cosine(1.2, final=0.1) == pytest.approx(0.1)
    assert trapezoid(1.2, decay=0.5, final=0.1) == pytest.approx(0.1)


def test_no_decay_is_flat_to_the_end() -> None:
    assert [trapezoid(x / 10, decay=0.0) for x in range(10)] == [1.0] * 10


def test_neither_jumps() -> None:
    for schedule in (
        lambda x: cosine(x, warmup=0.1, final=0.1),
        lambda x: trapezoid(x, warmup=0.1, decay=0.5),
    ):
        values = [schedule(i / 1000) for i in range(1001)]
        assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.011
        assert all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in values)


def test_momentum_rises_in_a_line() -> None:
    assert [warm_momentum(s, steps=10, start=0.85, end=0.95) for s in (0, 5, 10, 99)] == pytest.approx(
        [0.85, 0.9, 0.95, 0.95]
    )
    assert warm_momentum(0, steps=0, start=0.85, end=0.95) == 0.95


def test_stages_begin_where_they_say() -> None:
    stages = ((0.0, 256), (0.5, 512), (0.9, 1024))
    assert [stage(x, stages) for x in (0.0, 0.49, 0.5, 0.89, 0.9, 1.0)] == [256, 256, 512, 512, 1024, 1024]
