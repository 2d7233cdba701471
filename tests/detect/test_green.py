"""The green list: bit for bit transformers', which reads what we mark and marks what we read."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.generation.logits_process import WatermarkLogitsProcessor

import gpt2
from gpt2.detect import GreenMark, read_green, read_key, write_new_key
from gpt2.detect.green import _log_tail
from gpt2.errors import ConfigError
from gpt2.generation import GreenList
from gpt2.generation.greenlist import _green_mask, _is_among_first, _jumps

V = 50257
ALL = [
    GreenList(),
    GreenList(scheme="selfhash", width=3, gamma=0.4, delta=6.0),
    GreenList(gamma=0.5, delta=4.0, hash_key=2**50 + 3, width=3),
    GreenList(scheme="selfhash", width=1, delta=5.0),
]
FORMS = [*ALL[:2], *(pytest.param(green, marks=pytest.mark.long) for green in ALL[2:])]


def theirs(green: GreenList) -> transformers.WatermarkingConfig:
    return transformers.WatermarkingConfig(
        greenlist_ratio=green.gamma,
        bias=green.delta,
        hashing_key=green.hash_key,
        seeding_scheme=green.scheme,
        context_width=green.width,
    )


def detector(green: GreenList, *, ignore_repeated: bool) -> transformers.WatermarkDetector:
    config = transformers.GPT2Config()
    return transformers.WatermarkDetector(config, "cpu", theirs(green), ignore_repeated_ngrams=ignore_repeated)


@pytest.mark.parametrize("seed", [0, 1, 15485863, 2**40 + 5, 2**64 - 2])
def test_the_shuffle_is_pytorchs(seed: int) -> None:
    generator = torch.Generator()
    generator.manual_seed(seed)
    expected_V = np.zeros(V, np.bool_)
    expected_V[torch.randperm(V, generator=generator)[:12564].numpy()] = True
    np.testing.assert_array_equal(_green_mask(seed, V, 12564), expected_V)
    jumps = _jumps(seed, V, 12564)
    for token in range(0, V, 211):
        assert _is_among_first(jumps, token) == expected_V[token]


@pytest.mark.parametrize("green", FORMS, ids=str)
def test_logits_are_tilted_as_theirs(green: GreenList) -> None:
    processor = WatermarkLogitsProcessor(V, "cpu", **theirs(green).to_dict())
    draw = torch.Generator().manual_seed(3)
    for n in (max(1, green.width - 1), 4, 9):
        ids, logits = torch.randint(0, V, (1, n), generator=draw), torch.randn(1, V, generator=draw) * 4
        expected_V = processor(ids, logits)[0].numpy() if n >= green.width else logits[0].numpy()
        _, found_V = green.tilt((np.arange(V), logits[0].numpy()), ids[0].tolist(), V)
        np.testing.assert_array_equal(found_V, expected_V)


@pytest.mark.parametrize("green", FORMS, ids=str)
def test_each_reads_what_the_other_marked(green: GreenList, tiny_folder: Path) -> None:
    """Greedy, so that the texts themselves must be equal; z-scores to 1e-6, both ways of counting."""
    hf = transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()
    prompt = [464, 3797, 3332, 319]
    with torch.no_grad():
        written = hf.generate(
            torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=50256,
            watermarking_config=theirs(green), use_cache=True,
        )  # fmt: skip
    marked = written[0, len(prompt) :].tolist()
    model = gpt2.load(tiny_folder, backend="reference")
    model.noise = green
    events = list(model.stream(prompt, max_tokens=12, min_tokens=12, temperature=0))
    assert [event.token for event in events if event.token is not None] == marked
    for repeated in (True, False):
        found = detector(green, ignore_repeated=not repeated)(torch.tensor([marked]), return_dict=True)
        ours = read_green(marked, green, vocab_size=V, repeated=repeated)
        assert (ours.n_scored, ours.n_green) == (found.num_tokens_scored[0], found.num_green_tokens[0])
        assert ours.z_score == pytest.approx(float(found.z_score[0]), abs=1e-6)
    other = GreenList(gamma=green.gamma, scheme=green.scheme, width=green.width, hash_key=99)
    assert read_green(marked, other, vocab_size=V).p_value > 0.001


def test_drawn_text_bears_the_mark(tiny_folder: Path) -> None:
    model = gpt2.load(tiny_folder, backend="reference")
    model.noise = GreenList(delta=6.0)
    text = model.generate("Once", max_tokens=50, min_tokens=50, seed=1, top_p=0.9).text
    mark = read_green(model.tokenizer.encode(text), model.noise, vocab_size=V)
    assert mark.p_value < 1e-6
    assert mark.z_score > 5
    model.noise = gpt2.load(tiny_folder, backend="reference").noise
    plain = model.generate("Once", max_tokens=50, min_tokens=50, seed=1, top_p=0.9).text
    assert read_green(model.tokenizer.encode(plain), GreenList(), vocab_size=V).p_value > 0.001


def test_the_binomial_tail() -> None:
    from fractions import Fraction
    from math import comb, log

    for least, n in [(1, 3), (5, 20), (20, 20), (40, 100)]:
        p = Fraction(1, 4)
        exact = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1))
        expected = log(exact.numerator) - log(exact.denominator)
        assert _log_tail(least, n, 0.25) == pytest.approx(expected, rel=1e-10)
    assert _log_tail(0, 10, 0.25) == 0
    assert read_green([5], GreenList(), vocab_size=V) == GreenMark(
        n_tokens=1, n_scored=0, n_green=0, z_score=0, log_p_value=0
    )


def test_a_key_file_is_transformers_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for green in ALL:
        theirs(green).to_json_file(str(tmp_path / "a.json"))
        (tmp_path / "a.json").chmod(0o600)
        assert read_key(tmp_path / "a.json") == green
    write_new_key(tmp_path / "b.json", green="selfhash")
    made = read_key(tmp_path / "b.json")
    assert isinstance(made, GreenList)
    assert (made.scheme, made.width) == ("selfhash", 4)
    given = json.loads((tmp_path / "b.json").read_text(encoding="ascii"))
    assert transformers.WatermarkingConfig.from_dict(given).to_dict() == given
    assert str(made.hash_key) not in repr(made)
    with caplog.at_level(logging.WARNING, "gpt2"):
        (tmp_path / "b.json").chmod(0o644)
        read_key(tmp_path / "b.json")
    assert "chmod 600" in caplog.text
    assert str(made.hash_key) not in caplog.text
    for bad in (
        {},
        given | {"seeding_scheme": "x"},
        given | {"greenlist_ratio": 2},
        given | {"more": 1},
        given | {"hashing_key": "1"},
        given | {"hashing_key": 2**70},
        given | {"context_width": 0},
    ):
        (tmp_path / "c.json").write_text(json.dumps(bad), encoding="ascii")
        with pytest.raises(ConfigError, match="cannot be used as a watermark key") as error:
            read_key(tmp_path / "c.json")
        assert str(given["hashing_key"]) not in str(error.value)
