"""What is no text, number, path or function where one is wanted: each is named, as an error of this package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2.errors import BackendError, CheckpointError, GenerationError, Gpt2Error, ModelNotFoundError, TokenizerError
from gpt2.language_model import LanguageModel

NONSENSE = [
    None,
    -1,
    5.5,
    float("nan"),
    10**30,
    b"bytes",
    "\ud800",
    "a\0b",
    [],
    {},
    [None],
    [[1]],
    object(),
    np.array([1.5]),
    np.array(["a", "b"]),
]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return gpt2.load(tiny_folder, backend="reference")


@pytest.mark.parametrize(
    "call",
    [
        lambda model, given: gpt2.load(given),
        lambda model, given: gpt2.load(model.checkpoint.path, device=given),
        lambda model, given: gpt2.load(model.checkpoint.path, backend=given),
        lambda model, given: gpt2.load(model.checkpoint.path, weights=given),
        lambda model, given: gpt2.load(model.checkpoint.path, backend="reference", threads=given),
        lambda model, given: model.generate(given, max_tokens=1),
        lambda model, given: model.generate("a", given, max_tokens=1),
        lambda model, given: model.generate("a", max_tokens=1, draft=given),
        lambda model, given: list(model.generate_each(given, max_tokens=1)),
        lambda model, given: list(model.stream(given, max_tokens=1)),
        lambda model, given: model.score(given),
        lambda model, given: model.score("a b c", progress=given),
        lambda model, given: model.detect(given),
        lambda model, given: model.detect("a b c", progress=given),
        lambda model, given: model.calibrate(given, source="x"),
        lambda model, given: model.calibrate([given], source="x"),
        lambda model, given: model.calibrate(["a"], source="x", samples=given),
        lambda model, given: model.calibrate(["a"], source="x", seed=given),
        lambda model, given: model.calibrate(["a"], source=given),
        lambda model, given: model.translate("a", source=given),
        lambda model, given: model.translate("a", target=given),
        lambda model, given: model.answer("a", context="b", history=given),
        lambda model, given: model.answer("a", context="b", history=[given]),
        lambda model, given: model.answer("a", context="b", history=[("c", given)]),
        lambda model, given: model.logits(given),
        lambda model, given: model.logits([given]),
        lambda model, given: model.activations([given]),
        lambda model, given: model.embed(given),
        lambda model, given: model.embed("a", pooling=given),
        lambda model, given: model.patch("a b", source="a c", answer=given, depths=0, positions=0),
        lambda model, given: model.save(given),
        lambda model, given: model.save("never", format=given),
        lambda model, given: model.save("never", weights=given),
        lambda model, given: gpt2.Tokenizer(given),
        lambda model, given: gpt2.Tokenizer.from_folder(given),
        lambda model, given: model.tokenizer.save(given),
        lambda model, given: model.tokenizer.encode(given),
        lambda model, given: model.tokenizer.encode_array(given),
        lambda model, given: model.tokenizer.encode_batch([given]),
        lambda model, given: model.tokenizer.decode(given),
        lambda model, given: model.tokenizer.decode([given]),
        lambda model, given: model.tokenizer.decode([1], given),
        *(
            lambda model, given, name=name: gpt2.Sampling(**{name: given})
            for name in gpt2.Sampling.__dataclass_fields__
            if name not in ("ignore_eot", "truncate_prompt")
        ),
    ],
)
def test_nonsense_is_answered_by_nothing_but_errors_of_this_package(
    model: LanguageModel,
    call: Callable[[LanguageModel, Any], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = list[str]()
    for given in NONSENSE:
        try:
            call(model, given)
        except Gpt2Error as error:
            said.append(str(error))
    assert len(said) >= 5
    assert all(each.endswith((".", "?")) for each in said)
    assert model.backend.bytes() == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda model: gpt2.load(5), ModelNotFoundError, "no model 5: a model is asked for by its name or its path"),
        (lambda model: gpt2.load(b"gpt2"), ModelNotFoundError, "no model b'gpt2'"),
        (lambda model: model.logits(None), GenerationError, "Logits are of token ids, .*: got None"),
        (lambda model: model.logits([1.5]), GenerationError, r"Token id 1\.5 of the text is not in the vocabulary"),
        (lambda model: model.answer("a", history=5), GenerationError, "Earlier questions stand in a list .*: got 5"),
        (lambda model: model.answer("a", history=["b"]), GenerationError, "Earlier questions .*: got 'b'"),
        (lambda model: model.generate_each("Once"), GenerationError, "is a list of texts.*: got 'Once'"),
        (
            lambda model: model.answer("Who?", history=[("What?", "It.")]),
            GenerationError,
            "a passage, and there is none",
        ),
        (lambda model: model.generate([464, "a"]), GenerationError, "alike: got 464 first, and 'a' at position 1"),
        (
            lambda model: model.generate([1.5, 2]),
            GenerationError,
            r"Token id 1\.5 of the prompt is not in the vocabulary",
        ),
        (lambda model: model.generate([True]), GenerationError, "Token id True of the prompt is not in the vocabulary"),
        (lambda model: model.stream(5), GenerationError, r"can be continued: got 5\. Give one id as \[id\]"),
        (lambda model: list(model.generate_each([464])), GenerationError, r"got 464\. Give one id as \[id\]"),
        (lambda model: model.generate_each(5), GenerationError, "continued one by one is a list of texts.*: got 5"),
        (
            lambda model: model.score("a", progress=5),
            GenerationError,
            "progress must be a function, or left out: got 5",
        ),
        (lambda model: model.calibrate(5, source="x"), GenerationError, "made of texts, at least 99 of them: got 5"),
        (lambda model: model.calibrate([5], source="x"), GenerationError, "A text can be compared with: got 5"),
        (lambda model: model.patch("a", source="b", answer=1.5), GenerationError, r"as its text or its id: got 1\.5"),
        (lambda model: model.save(5), CheckpointError, "What a model is written to is given by its path: got 5"),
        (lambda model: model.save("", overwrite=True), CheckpointError, "is given by its path: got ''"),
        (lambda model: model.save("a\0b"), CheckpointError, "no file can have this name"),
        (lambda model: model.tokenizer.encode(b"a"), TokenizerError, r"got b'a'\. Decode them"),
        (lambda model: model.tokenizer.encode(None), TokenizerError, "Only text can be encoded: got None"),
        (lambda model: model.tokenizer.decode(5), TokenizerError, r"got 5\. Give one id as \[id\]"),
        (lambda model: model.tokenizer.decode([1], "x"), TokenizerError, "say replace, ignore or strict"),
        (lambda model: gpt2.Tokenizer(None), TokenizerError, r"Tokenizer\.published\(\) is that of every"),
        (
            lambda model: gpt2.Sampling(logit_bias=[1]),
            GenerationError,
            r"logit_bias must say by token id .*: got \[1\]",
        ),
        (lambda model: gpt2.Sampling(stop_ids=5), GenerationError, "stop_ids must be a list, or left out: got 5"),
    ],
)
def test_the_answer_says_what_was_seen(
    model: LanguageModel, call, error: type[Gpt2Error], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        call(model)


class Neither:
    def __bool__(self) -> bool:
        raise RuntimeError("who knows")


@pytest.mark.parametrize("given", [np.zeros(3), np.zeros(0), Neither()], ids=["several", "none", "neither"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("ignore_eot", lambda model, given: model.generate("a", ignore_eot=given)),
        ("truncate_prompt", lambda model, given: gpt2.Sampling(truncate_prompt=given)),
        ("trained", lambda model, given: model.calibrate(["a"], source="x", trained=given)),
        ("allow_special", lambda model, given: model.tokenizer.encode("a", allow_special=given)),
        ("allow_special", lambda model, given: model.tokenizer.encode_array("a", allow_special=given)),
        ("allow_special", lambda model, given: model.tokenizer.encode_batch(["a"], allow_special=given)),
        ("overwrite", lambda model, given: model.save("never", overwrite=given)),
        ("download", lambda model, given: gpt2.load("never", download=given)),
    ],
)
def test_what_is_neither_true_nor_false(
    model: LanguageModel, call: Callable[[LanguageModel, Any], object], name: str, given: object
) -> None:
    with pytest.raises(Gpt2Error, match=f"{name} is True or False: got "):
        call(model, given)
    assert gpt2.Sampling(ignore_eot=np.True_).ignore_eot is True  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("threads", [0, 1025, 2**32 + 1, 10**30, 1.0, True, "2"])
def test_threads_are_a_number_that_an_engine_can_have(tiny_folder: Path, threads: object) -> None:
    with pytest.raises(BackendError, match="threads"):
        gpt2.load(tiny_folder, threads=threads)


def test_what_is_like_text_numbers_and_paths_will_do(model: LanguageModel, tmp_path: Path) -> None:
    ids = np.array([464, 3797])
    assert (model.logits(ids) == model.logits([464, 3797])).all()
    assert (model.logits(iter([464, 3797])) == model.logits(ids)).all()
    assert model.tokenizer.decode(ids) == model.tokenizer.decode([464, 3797])
    patched = [
        model.patch("a b", source="a c", answer=answer, depths=0, positions=0).before for answer in (262, ids[0])
    ]
    assert all(np.isfinite(patched))
    model.save(str(tmp_path / "copy"))
    gpt2.load(tmp_path / "copy", backend="reference", threads=np.int64(1)).close()
