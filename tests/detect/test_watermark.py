"""The mark: exact p-values without it, power with it, keys that are not confused and stay secret."""

import logging
import math
import os
import stat
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gpt2.backends.reference import ReferenceBackend
from gpt2.checkpoint import Weights
from gpt2.data import read_documents
from gpt2.detect import Mark, read_key, read_mark, read_marks, write_new_key
from gpt2.detect.watermark import _log_tail
from gpt2.errors import ConfigError
from gpt2.generation import ContextNoise, Noise, Request, Sampling, Scheduler, draws
from gpt2.generation.noise import POSITION
from gpt2.tokenizer import Tokenizer

KEY, OTHER = ContextNoise(bytes(range(32))), ContextNoise(bytes(range(1, 33)))


def distance_from_uniform(p_values: list[float]) -> float:
    """Kolmogorov and Smirnov's distance, in units of what is exceeded in 1 % of cases."""
    p, steps = np.sort(p_values), np.arange(len(p_values) + 1) / len(p_values)
    return float(max((steps[1:] - p).max(), (p - steps[:-1]).max())) * math.sqrt(len(p)) / 1.63


def test_p_values_of_unmarked_tokens_are_uniform() -> None:
    """2,000 sequences for one key."""
    draw = np.random.default_rng(20)
    texts = [draw.integers(0, 50257, n).tolist() for n in draw.integers(5, 60, 2000)]
    assert distance_from_uniform([read_mark(text, KEY).p_value for text in texts]) < 1


def test_p_values_of_repetitive_texts_are_uniform_over_keys() -> None:
    """2,000 keys and texts of five tokens, with most contexts repeated: counting one twice would show."""
    draw = np.random.default_rng(21)
    keys = [ContextNoise(draw.bytes(32), width=1) for _ in range(2000)]
    texts = [draw.integers(0, 5, n).tolist() for n in draw.integers(5, 60, 2000)]
    assert distance_from_uniform([read_mark(*pair).p_value for pair in zip(texts, keys, strict=True)]) < 1


def test_the_tail_is_exact() -> None:
    """Against the sum in whole fractions, to 1e-12 of the logarithm."""
    for n, score in [(1, 0.25), (1, 30.0), (2, 1.5), (30, 28.75), (200, 150.0), (200, 900.0)]:
        s = Fraction(score)
        term, total = Fraction(1), Fraction(0)
        for k in range(n):
            total, term = total + term, term * s / (k + 1)
        exact = math.log(total.numerator) - math.log(total.denominator) - score
        assert _log_tail(n, score) == pytest.approx(exact, rel=1e-12, abs=1e-12)
    assert _log_tail(100_000, 300_000.0) < -80_000  # far beyond the smallest float


def test_a_context_counts_once_and_where_it_comes_first() -> None:
    ids = [5, 6, 7, 8, 9, 1, 2, 3]
    once = read_mark(ids, KEY)
    assert once.n_scored == 4
    again = read_mark([*ids, 5, 6, 7, 8, 30], KEY)  # after 5 6 7 8 another token than at first
    assert again.n_scored == 4 + 4  # the four across the seam; the repeated context adds nothing
    seam = [*ids, 5, 6, 7, 8][4:]
    u = [draws.uniforms(KEY.context_key(seam[i - 4 : i]), np.array([seam[i]]))[0] for i in range(4, 8)]
    assert again.score == pytest.approx(once.score - sum(math.log1p(-x) for x in u))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_tokens_say_nothing(n: int) -> None:
    assert read_mark(list(range(n)), KEY) == Mark(n_tokens=n, n_scored=0, score=0.0, log_p_value=0.0)
    assert read_mark(list(range(n)), KEY).p_value == 1


def written(weights: Weights, noise: Noise, n: int) -> list[list[int]]:
    scheduler = Scheduler(ReferenceBackend(weights), Tokenizer.published(), noise=noise)
    sampling = Sampling(seed=7, n=n, max_tokens=60, ignore_eot=True)
    scheduler.submit(Request(prompt=[11, 12], sampling=sampling))
    texts: dict[int, list[int]] = {}
    while scheduler.busy:
        for event in scheduler.step():
            if event.token is not None:
                texts.setdefault(event.sample, []).append(event.token)
    return list(texts.values())


def test_marked_texts_are_told_and_no_two_keys_confused(tiny_weights: Weights) -> None:
    """Six texts of 60 tokens each; without a mark one in 1,000 would be at 0.001."""
    marked, plain = written(tiny_weights, KEY, 6), written(tiny_weights, POSITION, 6)
    assert len({tuple(text) for text in marked}) == 6
    assert max(read_mark(text, KEY).p_value for text in marked) < 1e-6
    assert min(read_mark(text, OTHER).p_value for text in marked) > 0.001
    assert min(read_mark(text, KEY).p_value for text in plain) > 0.001
    middle = marked[0][20:45]
    assert read_mark(middle, KEY).p_value < 0.001  # a part, without prompt or beginning


def test_no_two_of_many_keys_are_confused(tiny_weights: Weights) -> None:
    keys = [ContextNoise(bytes([i]) * 32) for i in range(4)]
    texts = [written(tiny_weights, key, 1)[0] for key in keys]
    p_values = np.array([[read_mark(text, key).p_value for key in keys] for text in texts])
    assert (np.diag(p_values) < 1e-6).all()
    assert p_values[~np.eye(len(keys), dtype=bool)].min() > 0.001


def test_a_marked_passage_in_a_long_text_is_found(tiny_weights: Weights) -> None:
    tokenizer = Tokenizer.published()
    human = tokenizer.decode(np.random.default_rng(8).integers(1000, 30000, 400).tolist()).replace("\ufffd", "")
    passage = tokenizer.decode(written(tiny_weights, KEY, 1)[0]).replace("\ufffd", "")
    text = human + passage + human[::-1]
    found = read_marks(text, tokenizer=tokenizer, read=lambda ids: read_mark(ids, KEY), rate=0.01, window=60)
    assert found.is_marked
    marked = [part for part in found.parts if part.is_marked]
    assert marked
    assert all(part.start < len(human + passage) and part.end > len(human) for part in marked)
    assert (found.parts[0].start, found.parts[-1].end) == (0, len(text))
    other = read_marks(text, tokenizer=tokenizer, read=lambda ids: read_mark(ids, OTHER), rate=0.01, window=60)
    assert not other.is_marked
    assert not any(part.is_marked for part in other.parts)
    short = read_marks(passage, tokenizer=tokenizer, read=lambda ids: read_mark(ids, KEY), rate=0.01)
    assert (short.parts, short.p_value) == ((), short.whole.p_value)


CORPUS = os.environ.get("GPT2_CORPUS")


@pytest.mark.long
@pytest.mark.skipif(not CORPUS, reason="GPT2_CORPUS is not set")
def test_p_values_of_ten_thousand_human_texts_are_uniform() -> None:
    """One key, one text a document, of 25 to 60 tokens."""
    tokenizer = Tokenizer.published()
    p_values = []
    draw = np.random.default_rng(22)
    for document in read_documents(str(Path(CORPUS or "") / "train-000.jsonl.zst")):
        ids = tokenizer.encode(document.text[:600])[: int(draw.integers(25, 60))]
        if len(ids) >= 25:
            p_values.append(read_mark(ids, KEY).p_value)
        if len(p_values) == 10_000:
            break
    assert len(p_values) == 10_000
    assert distance_from_uniform(p_values) < 1
    for level in (0.001, 0.01, 0.05):
        deviation = math.sqrt(10_000 * level * (1 - level))
        assert abs(sum(p <= level for p in p_values) - 10_000 * level) < 4 * deviation


def test_a_key_file_is_private_and_read_as_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.key"
    write_new_key(path, width=3)
    write_new_key(tmp_path / "b.key")
    text = path.read_text(encoding="ascii")
    secret = text.split()[-1]
    a, b = read_key(path), read_key(tmp_path / "b.key")
    assert (a.width, b.width, len(secret)) == (3, 4, 64)
    assert a.context_key([1, 2, 3]) == ContextNoise(bytes.fromhex(secret), width=3).context_key([1, 2, 3])
    assert secret not in (tmp_path / "b.key").read_text(encoding="ascii")
    assert not caplog.records
    with pytest.raises(ConfigError, match="there already"):
        write_new_key(path)
    assert path.read_text(encoding="ascii") == text
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        with caplog.at_level(logging.WARNING, "gpt2"):
            noise = read_key(path)
        assert "chmod 600" in caplog.text
        assert secret not in caplog.text + repr(noise)


def test_a_key_that_could_not_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_new_key(tmp_path / "a.key")
    assert not list(tmp_path.iterdir())


def test_what_is_no_key_is_refused_without_saying_what_stands_in_it(tmp_path: Path) -> None:
    write_new_key(tmp_path / "good.key")
    good = (tmp_path / "good.key").read_text(encoding="ascii")
    secret = good.split()[-1]
    (tmp_path / "crlf.key").write_bytes(good.replace("\n", "\r\n").encode())
    assert read_key(tmp_path / "crlf.key").width == 4
    bad = tmp_path / "bad.key"
    for data in (
        "",
        secret,
        good[:-8],
        good + secret,
        good.replace("width 4", "width 0"),
        good.replace("width 4", "width 400"),
        good.replace("key 1", "key 2"),
        good.replace(secret, "é" * 64),
        good + "#" * 5000,
    ):
        bad.write_text(data, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"bad\.key cannot be used") as error:
            read_key(bad)
        assert secret[:8] not in str(error.value)
        assert error.value.__cause__ is None
    with pytest.raises(FileNotFoundError):
        read_key(tmp_path / "absent.key")
