"""The model as a user holds it, on random weights and the backend that defines all others."""

import copy
import inspect
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2 import checkpoint
from gpt2.backends.reference import ReferenceBackend
from gpt2.checkpoint import Weights
from gpt2.config import ModelConfig
from gpt2.errors import BackendError, CheckpointError, ContextError, GenerationError, ModelNotFoundError, TokenizerError
from gpt2.generation import ContextNoise
from gpt2.language_model import LanguageModel
from gpt2.native.library import Library

PROMPTS = ["Once upon a time", "", "The", "étoile 😀 and much more text than the others have"]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return gpt2.load(tiny_folder, backend="reference")


class Noted:
    """A lock that tells when another thread than the first comes to it."""

    def __init__(self, lock) -> None:
        self._lock, self.came, self._order = lock, threading.Event(), dict[str, threading.Thread]()

    def __enter__(self) -> None:
        me = threading.current_thread()
        if self._order.setdefault("first", me) is not me:
            self.came.set()
        self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(*error)


@pytest.mark.parametrize(
    ("lock", "get"),
    [
        ("_opened._opening", lambda model: model.exact_backend()),
        ("_opened._opening", lambda model: model._opened.intervening),
        ("_opened._opening", lambda model: model._opened.definition),
        ("_opening_drafts", lambda model: model._smaller("small")),
    ],
    ids=["exact", "intervening", "definition", "draft"],
)
def test_two_threads_that_want_the_same_open_it_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, lock: str, get
) -> None:
    files = checkpoint.read(tiny_folder)
    opened: list[object] = []

    def open_(*arguments: object, **options: object) -> ReferenceBackend:
        opened.append(arguments)
        if len(opened) > 1:
            noted.came.set()
        assert noted.came.wait(120)  # the other one wants it too
        return ReferenceBackend(files.weights)

    monkeypatch.setattr("gpt2.backends.definition.Definition", open_)
    model = LanguageModel(files, ReferenceBackend(files.weights), name="m", exact=open_, smaller=open_)
    holder, _, name = lock.rpartition(".")
    holder = getattr(model, holder) if holder else model
    noted = Noted(getattr(holder, name, threading.Lock()))
    setattr(holder, name, noted)
    with ThreadPoolExecutor(2) as pool, model:
        one, other = pool.map(get, [model] * 2)
        assert one is other
        assert len(opened) == 1


def test_what_was_loaded(model: LanguageModel, tiny_folder: Path) -> None:
    assert model.config == ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=64)
    assert model.device == "cpu"
    assert model.backend.name == "reference"
    assert model.checkpoint.path == tiny_folder
    assert model.tokenizer.encode("Hello world") == [15496, 995]
    assert model.tokenizer.decode([15496, 995]) == "Hello world"


def test_the_text_is_that_of_the_tokens(model: LanguageModel) -> None:
    completion = model.generate("Once", max_tokens=12, seed=1)
    assert completion.text == model.tokenizer.decode(completion.tokens)
    assert len(completion.tokens) == 12
    assert (completion.prompt, completion.seed, completion.finish_reason) == ("Once", 1, "length")
    assert completion.samples[0].logprobs is None


def test_greedy_takes_the_largest_logit(model: LanguageModel) -> None:
    ids = model.tokenizer.encode("Once upon")
    for _ in range(5):
        ids.append(int(model.logits(ids)[-1].argmax()))
    assert model.generate("Once upon", max_tokens=5, temperature=0).tokens == tuple(ids[-5:])


def test_a_beam_of_one_is_greedy_and_wider_ones_find_likelier_text(model: LanguageModel) -> None:
    greedy = model.generate("Once", max_tokens=6, temperature=0)
    [narrow] = model.beam_search("Once", max_tokens=6, beams=1)
    assert narrow.ids == narrow.tokens == greedy.tokens
    assert narrow.text == greedy.text
    best = model.beam_search("Once", max_tokens=6, beams=4, n=2)
    assert best[0].score >= best[1].score
    assert best[0].score >= narrow.score
    assert model.backend.bytes() == 0


@pytest.fixture
def cheap_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the draft model were much smaller than the model."""
    monkeypatch.setattr("gpt2.generation.draft_model.cost_of", lambda smaller, larger: 0.05)


@pytest.mark.usefixtures("cheap_drafts")
def test_drafts_change_no_text_and_are_counted(model: LanguageModel, tiny_folder: Path) -> None:
    settings = {"max_tokens": 40, "temperature": 0.3, "top_k": 2, "seed": 7}
    prompt = "the cat sat on the mat and the cat sat on"
    plain = model.generate(prompt, **settings)
    assert (plain.usage.prompt_tokens, plain.usage.generated_tokens, plain.usage.drafted_tokens) == (11, 40, 0)
    with gpt2.load(tiny_folder, backend="reference") as twin:
        drafted = {draft: model.generate(prompt, draft=draft, **settings) for draft in ("none", "auto", "ngram", twin)}
        pieces = list(model.stream(prompt, draft=twin, **settings))
    assert all(completion == plain for completion in drafted.values())
    assert "".join(event.text for event in pieces) == plain.text
    assert drafted["auto"].usage.drafted_tokens == 0  # the reference backend is exact within rounding only
    assert drafted[twin].usage.accepted_tokens > 5
    assert pieces[-1].usage == drafted[twin].usage
    assert model.backend.bytes() == 0


@pytest.mark.usefixtures("cheap_drafts")
def test_a_draft_model_is_opened_once_by_name(model: LanguageModel, tiny_folder: Path) -> None:
    settings = {"temperature": 0, "max_tokens": 30, "seed": 1}
    first, again = (model.generate("Once", draft=str(tiny_folder), **settings) for _ in range(2))
    assert first == again == model.generate("Once", **settings)
    assert first.usage.accepted_tokens == again.usage.accepted_tokens > 0
    with pytest.raises(ModelNotFoundError, match="nothing"):
        model.generate("Once", draft="nothing")


def test_a_draft_model_that_is_not_smaller_is_said(
    model: LanguageModel, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = gpt2.load(tiny_folder, backend="reference")
    for _ in range(3):
        assert own.generate("Once", draft=str(tiny_folder), seed=1, max_tokens=3).usage.drafted_tokens == 0
    assert caplog.text.count("hardly smaller than") == 1, "once, not at every call"


def test_a_draft_model_of_another_vocabulary_is_refused(model: LanguageModel) -> None:
    class Other:
        name = "other"
        config = ModelConfig(n_layer=1, n_head=1, n_embd=4, vocab_size=9)
        tokenizer = type("T", (), {"hash": "another"})()

    model._opened_drafts["other"] = Other()
    try:
        with pytest.raises(GenerationError, match=r"other cannot draft for .* of 9 and 50,257 ids, are not the same"):
            model.generate("Once", draft="other")
    finally:
        del model._opened_drafts["other"]


def test_a_mark_is_set_by_the_models_noise(tiny_folder: Path) -> None:
    with gpt2.load(tiny_folder, backend="reference") as marking:
        plain = marking.generate("Once", max_tokens=12, seed=1)
        marking.noise = ContextNoise(bytes(16), width=2)
        marked = marking.generate("Once", max_tokens=12, seed=1)
        assert marked.tokens[:2] == plain.tokens[:2]
        assert marked != plain
        assert [e.token for e in marking.stream("Once", max_tokens=12, seed=1)] == list(marked.tokens)


def test_prompts_of_one_call_share_their_beginning(tiny_folder: Path) -> None:
    with gpt2.load(tiny_folder, backend="native", weights="fp32") as native:
        prompts = [
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen " + end
            for end in ("a", "b", "a b")
        ]
        together = native.generate(prompts, max_tokens=8, seed=1)
        assert together == [native.generate(prompt, max_tokens=8, seed=1) for prompt in prompts]
        assert native.backend.bytes() == 0


def test_a_list_equals_each_alone(model: LanguageModel) -> None:
    settings = {"max_tokens": 10, "temperature": 0.9, "top_k": 50, "seed": 7}
    together = model.generate(PROMPTS, **settings)
    assert together == [model.generate(prompt, **settings) for prompt in PROMPTS]
    assert len({completion.text for completion in together}) == len(PROMPTS)


def test_texts_that_come_one_by_one_equal_a_list(model: LanguageModel) -> None:
    prompts = ["Once", "", "The cat"]
    assert list(model.generate_each(iter(prompts), max_tokens=5, seed=3)) == model.generate(
        prompts, max_tokens=5, seed=3
    )
    assert model.backend.bytes() == 0
    assert [each.prompt for each in model.generate_each(prompts, max_tokens=1)] == prompts  # a seed is drawn


def test_a_list_of_ids_is_one_prompt(model: LanguageModel) -> None:
    settings: dict[str, Any] = {"max_tokens": 5, "seed": 7}
    ids = [464, 3797]
    one = model.generate(ids, **settings)
    assert one.prompt == ids and one.text == model.generate(model.tokenizer.decode(ids), **settings).text
    assert one.text == "".join(event.text for event in model.stream(ids, **settings))
    for same in (tuple(ids), np.array(ids), np.array(ids, np.uint16), list(np.array(ids))):
        assert model.generate(same, **settings).samples == one.samples
    other = model.generate([13], **settings)
    for several in ([ids, [13]], [tuple(ids), np.array([13])], (ids, ".")):
        assert [each.samples for each in model.generate(several, **settings)] == [one.samples, other.samples]
    assert model.generate(np.array([ids, ids]), **settings) == [one, one]


def test_ids_may_be_a_tensor(model: LanguageModel) -> None:
    torch = pytest.importorskip("torch")
    settings: dict[str, Any] = {"max_tokens": 5, "seed": 7}
    one = model.generate([464], **settings)
    assert model.generate(torch.tensor([464]), **settings) == one
    for several in (torch.tensor([[464]]), [torch.tensor([464])]):
        assert [each.samples for each in model.generate(several, **settings)] == [one.samples]


def test_an_empty_list_is_no_work(model: LanguageModel) -> None:
    assert model.generate([]) == []


def test_the_stream_joins_to_the_text(model: LanguageModel) -> None:
    settings = {"max_tokens": 20, "seed": 3}
    events = list(model.stream("Once", **settings))
    completion = model.generate("Once", **settings)
    assert "".join(event.text for event in events) == completion.text
    assert tuple(event.token for event in events if event.token is not None) == completion.tokens
    assert [event.finish_reason for event in events if event.finish_reason] == [completion.finish_reason]


def test_a_stream_left_in_the_middle_gives_its_memory_back(model: LanguageModel) -> None:
    stream = model.stream("Once", max_tokens=20, seed=3)
    next(stream)
    assert model.backend.bytes() > 0
    stream.close()
    assert model.backend.bytes() == 0


def test_drafts_that_were_opened_for_it_are_closed_with_it(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = gpt2.load(tiny_folder, backend="reference")
    closed: list[str] = []
    monkeypatch.setattr(smaller, "close", lambda: closed.append("smaller"))
    for draft in (smaller, "by its name"):
        backend = ReferenceBackend(smaller.checkpoint.weights)
        with LanguageModel(smaller.checkpoint, backend, name="larger", smaller=lambda name: smaller) as larger:
            larger.generate("Once", max_tokens=3, seed=1, draft=draft)
            larger.generate("Once", max_tokens=3, seed=1, draft=draft)
        assert closed == ([] if draft is smaller else ["smaller"])  # a loaded one belongs to whoever loaded it


def test_the_hash_of_the_weights_is_computed_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Weights] = []
    monkeypatch.setattr(checkpoint, "fingerprint", lambda weights: computed.append(weights) or "f" * 64)
    model = gpt2.load(tiny_folder, backend="reference")
    assert {model.fingerprint(), model.fingerprint()} == {"f" * 64}
    assert computed == [model.checkpoint.weights]


@pytest.mark.parametrize("look", ["score", "logit_lens"])
def test_fewer_than_no_tokens_cannot_be_reported(model: LanguageModel, look: str) -> None:
    with pytest.raises(GenerationError, match="at least 0: got -1"):
        getattr(model, look)("Once", best=-1)
    assert getattr(model, look)("Once", best=0)


def test_a_prompt_may_be_ids_in_a_stream(model: LanguageModel) -> None:
    text = [event.text for event in model.stream("Hello world", max_tokens=5, seed=1)]
    assert text == [event.text for event in model.stream([15496, 995], max_tokens=5, seed=1)]


def test_a_seed_that_was_chosen_repeats_the_text(model: LanguageModel) -> None:
    first = model.generate("Once", max_tokens=8)
    assert model.generate("Once", max_tokens=8, seed=first.seed).text == first.text


def test_samples_and_log_probabilities(model: LanguageModel) -> None:
    completion = model.generate("Once", max_tokens=4, n=3, logprobs=2, prompt_logprobs=0, seed=5)
    assert len({sample.text for sample in completion.samples}) == 3
    first = completion.samples[0]
    assert first.logprobs is not None
    assert [each.token for each in first.logprobs] == list(first.tokens)
    row = model.logits(model.tokenizer.encode("Once"))[-1].astype(np.float64)
    expected = row[first.tokens[0]] - np.log(np.exp(row - row.max()).sum()) - row.max()
    assert first.logprobs[0].logprob == pytest.approx(expected, abs=1e-4)
    assert completion.prompt_logprobs is not None
    assert [each.token for each in completion.prompt_logprobs] == model.tokenizer.encode("Once")


def test_settings_may_come_as_a_sampling_and_be_changed_by_name(model: LanguageModel) -> None:
    sampling = gpt2.Sampling(max_tokens=4, seed=2)
    assert len(model.generate("a", sampling).tokens) == 4
    assert len(model.generate("a", sampling, max_tokens=2).tokens) == 2


def test_logits_have_a_row_for_each_token(model: LanguageModel) -> None:
    logits = model.logits([464, 3797])
    assert logits.shape == (2, 50257)
    assert logits.dtype == np.float32
    assert model.backend.bytes() == 0


def test_a_function_of_ones_own_is_in_the_run(model: LanguageModel) -> None:
    ids, sites = [464, 3797], []

    def look(site: str, layer: int, value: np.ndarray) -> np.ndarray:
        sites.append((site, layer, value.shape))
        return value

    np.testing.assert_allclose(model.logits(ids, at=look), model.logits(ids), rtol=0, atol=1e-5)
    with pytest.raises(
        GenerationError, match=r"as residual 0: got None\. It must return an array of \(2, 16\): `value`"
    ):
        model.logits(ids, at=lambda site, layer, value: None)  # type: ignore[return-value, arg-type]
    with pytest.raises(GenerationError, match=r"as neurons 0: got an array of \(1, 64\)"):
        model.logits(ids, at=lambda site, layer, value: value[:1] if site == "neurons" else value)
    assert sites[:1] + sites[-1:] == [("residual", 0, (2, 16)), ("residual", 2, (2, 16))]
    assert {site for site, _, _ in sites} == {"residual", "keys", "values", "attention", "heads", "neurons"}
    nothing = model.logits(ids, at=lambda site, layer, value: 0 * value if site == "residual" else value)
    np.testing.assert_array_equal(nothing[0], nothing[1])  # no token knows what it is

    def with_one_before(site: str, layer: int, value: np.ndarray) -> np.ndarray:
        return np.pad(value, [(0, 0), (1, 0), (0, 0)]) if site in ("keys", "values") else value

    assert model.logits(ids, at=with_one_before).shape == (2, model.config.vocab_size)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda model: model.logits([1] * 65), ContextError),
        (lambda model: model.logits([1] * 65, at=lambda site, layer, value: value), ContextError),
        (lambda model: model.logits("text", at=lambda site, layer, value: value), GenerationError),
        (lambda model: model.logits([1], at="residual"), GenerationError),
        (lambda model: model.logits([1], at=lambda site, layer, value: None), GenerationError),
        (lambda model: model.logits([1, 2], at=lambda site, layer, value: value[:1]), GenerationError),
        (lambda model: model.logits([50257]), GenerationError),
        (lambda model: model.generate("word " * 100), ContextError),
        (lambda model: model.stream("word " * 100), ContextError),
        (lambda model: model.generate("a", temperature=-1), GenerationError),
        (lambda model: model.generate("a", temprature=1), TypeError),
        (lambda model: model.score(b"bytes"), GenerationError),
        (lambda model: model.score(["a", "b"]), GenerationError),
        (lambda model: model.score(None), GenerationError),
        (lambda model: model.logits("text"), GenerationError),
        (lambda model: model.save("x", format="keras"), CheckpointError),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(model: LanguageModel, call, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(model)
    assert model.backend.bytes() == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.generate(b"a"), "Bytes cannot be continued"),
        (lambda model: model.generate("a", 50), "Settings are given by name, .*: got 50"),
        (lambda model: model.stream(["a"]), "Token id 'a' of the prompt"),
        (lambda model: model.stream([1.5]), r"Token id 1\.5 of the prompt"),
        (lambda model: model.beam_search("a", beams="2"), "beams must be a whole number: got '2'"),
        (lambda model: model.score("a", stride="5"), "stride must be a whole number: got '5'"),
        (lambda model: model.score("a", best=1.5), r"best must be a whole number: got 1\.5"),
        (lambda model: model.detect(None), "A text can be judged: got None"),
        (lambda model: model.detect(b"a"), "Bytes cannot be judged"),
        (lambda model: model.detect("a", window="5"), "window must be a whole number: got '5'"),
        (lambda model: model.detect("a", false_positive_rate=None), "false_positive_rate must be a number: got None"),
        (lambda model: model.detect("a", calibration="its.json"), "Calibration.read makes of a file: got 'its.json'"),
        (lambda model: model.translate(5), "A text can be translated: got 5"),
        (lambda model: model.translate("a", prompts="my.toml"), "Prompts.read makes of a file: got 'my.toml'"),
        (lambda model: model.translate("a", draft=None), "What drafts is .*: got None"),
        (lambda model: model.summarize(b"a"), "Bytes cannot be summarized"),
        (lambda model: model.answer(["a"]), "A text can be answered"),
        (lambda model: model.answer("a", context=5), "A text can be the passage of a question: got 5"),
        (lambda model: model.embed(5), "is a text or several: got 5"),
        (lambda model: model.embed([None]), "A text or token ids can be looked into: got None"),
        (lambda model: model.logit_lens(5), "A text or token ids can be looked into: got 5"),
        (lambda model: model.logit_lens("a", depths="b"), "depth must be a whole number: got 'b'"),
        (lambda model: model.logit_lens("a", best=None), "best must be a whole number: got None"),
        (lambda model: model.attention("a", 0, 1.5), r"head must be a whole number: got 1\.5"),
        (lambda model: model.attention("a", last="b"), "last must be a whole number: got 'b'"),
    ],
)
def test_what_is_of_the_wrong_type_is_named(model: LanguageModel, call, said: str) -> None:
    with pytest.raises(GenerationError, match=said):
        call(model)
    assert model.backend.bytes() == 0


def test_numbers_may_be_numpys(model: LanguageModel) -> None:
    n = np.int64(1)
    assert model.generate("a", seed=n, max_tokens=n, temperature=np.float32(0.5)) == model.generate(
        "a", seed=1, max_tokens=1, temperature=0.5
    )
    assert model.score("Once upon a time", stride=n) == model.score("Once upon a time", stride=1)
    assert model.attention("a", layer=n, head=n, last=n).layers == (1,)


def test_a_misspelt_setting_is_answered_with_the_nearest(model: LanguageModel) -> None:
    with pytest.raises(TypeError, match=r"no setting 'temprature'\. Did you mean temperature"):
        model.generate("a", temprature=1)


@pytest.mark.parametrize("backend", ["reference", "native", "torch"])
@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate("a"),
        lambda model: model.stream("a"),
        lambda model: model.score("a"),
        lambda model: model.logits([1]),
        lambda model: model.logits([1], at=lambda site, layer, value: value),
        lambda model: model.attention("a"),
        lambda model: model.neurons("a"),
        lambda model: model.beam_search("a"),
    ],
)
def test_a_closed_model_says_so(tiny_folder: Path, backend: str, call) -> None:
    try:
        model = gpt2.load(tiny_folder, backend=backend)
    except BackendError as error:
        pytest.skip(str(error))
    left, read_on = (model.stream("Once", max_tokens=20, ignore_eot=True) for _ in range(2))
    next(left), next(read_on)
    model.close()
    left.close()  # a stream that outlives its model has nothing to give back
    with pytest.raises(BackendError, match="closed"):
        list(read_on)
    with pytest.raises(BackendError, match="closed"):
        call(model)
    model.close()


def test_saving_and_loading_keeps_every_logit(model: LanguageModel, tmp_path: Path) -> None:
    model.save(tmp_path / "copy")
    again = gpt2.load(tmp_path / "copy", backend="reference")
    assert (again.logits([464, 3797]) == model.logits([464, 3797])).all()
    with pytest.raises(CheckpointError):
        model.save(tmp_path / "copy")
    model.save(tmp_path / "copy", overwrite=True)


def test_two_models_do_not_know_of_each_other(model: LanguageModel, tiny_folder: Path) -> None:
    expected = model.generate("Once", max_tokens=10, seed=1).text
    with gpt2.load(str(tiny_folder), backend="reference") as other:
        mine, theirs = (each.stream("Once", max_tokens=10, seed=1) for each in (model, other))
        pairs = list(zip(mine, theirs, strict=True))
    for side in (0, 1):
        assert "".join(pair[side].text for pair in pairs) == expected


def test_threads_may_share_a_model_on_the_native_engine(tiny_folder: Path) -> None:
    def ask(model: LanguageModel, seed: int) -> tuple[object, ...]:
        text = f"{seed} times the cat sat"
        written = model.generate([text, "Once"], max_tokens=12, seed=seed)
        pieces = [event.text for event in model.stream(text, max_tokens=12, seed=seed)]
        return written, pieces, model.score(text), model.logit_lens(text, best=1).guesses_LT

    with (
        gpt2.load(tiny_folder, backend="native", weights="int8", threads=1) as alone,
        gpt2.load(tiny_folder, backend="native", weights="int8", threads=1) as shared,
        ThreadPoolExecutor(2) as pool,
    ):
        asked = list(range(4)) * 3
        assert list(pool.map(lambda seed: ask(shared, seed), asked)) == [ask(alone, seed) for seed in asked]
        assert shared.backend.bytes() == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate(PROMPTS[0], seed=1, max_tokens=30),
        lambda model: model.generate(PROMPTS, seed=1, max_tokens=30, n=2),
        lambda model: list(model.stream(PROMPTS[0], seed=1, max_tokens=30)),
        lambda model: list(model.stream("the cat sat on the mat and the cat sat on", temperature=0, max_tokens=30)),
        lambda model: list(model.generate_each(PROMPTS, seed=1, max_tokens=30)),
        lambda model: model.beam_search(PROMPTS[0], max_tokens=30, beams=3),
    ],
    ids=["one", "list", "stream", "drafts", "each", "beams"],
)
def test_ctrl_c_during_a_step_of_the_engine_ends_it_before_the_next(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, call
) -> None:
    with gpt2.load(tiny_folder, backend="native") as model:
        expected = call(model)
        calls, steps = Library.load().calls, list[int]()
        step, begun, sent = calls.gpt2_step, threading.Event(), threading.Event()

        def watched(engine: int, work: object, pieces: int) -> int:
            steps.append(pieces)
            if len(steps) < 4:
                return step(engine, work, pieces)
            begun.set()
            code = step(engine, work, pieces)
            sent.wait()  # here at the latest
            return code

        def interrupt() -> None:
            begun.wait()
            signal.raise_signal(signal.SIGINT)
            sent.set()

        monkeypatch.setattr(calls, "gpt2_step", watched)
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            call(model)
        assert len(steps) == 4
        monkeypatch.undo()
        assert model.backend.bytes() == 0
        assert model.backend._lengths == {}
        assert call(model) == expected


def test_scores_are_exact_where_auto_chose_a_smaller_form(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def open_backend(weights: Weights, *, form: str, **_: object) -> ReferenceBackend:
        asked.append(form)
        backend = ReferenceBackend(weights)
        backend.weights = "int8" if form == "auto" else form
        return backend

    monkeypatch.setattr("gpt2.backends.open", open_backend)
    with gpt2.load(tiny_folder) as model:
        model.generate("Once", max_tokens=1)
        assert asked == ["auto"]
        model.logits([1])
        model.score("Once")
        assert asked == ["auto", "fp32"]
    asked.clear()
    with gpt2.load(tiny_folder, weights="int8") as model:
        model.score("Once")
    assert asked == ["int8"]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        gpt2.load(str(tmp_path / "nowhere"))


def test_a_backend_that_is_not_there(tiny_folder: Path) -> None:
    with pytest.raises(BackendError):
        gpt2.load(tiny_folder, backend="abacus")


def test_looking_inside_is_in_fp32_whatever_generates(tiny_folder: Path) -> None:
    with gpt2.load(tiny_folder) as model:
        ids = model.tokenizer.encode("Once upon a time")
        logits_TV = model.logits(ids).astype(np.float64)
        lens = model.logit_lens("Once upon a time", depths=2, best=1)
        assert lens.best_ids_LTK[0, :, 0].tolist() == logits_TV.argmax(1).tolist()
        assert model.activations(ids).residual_LTD.shape == (3, 4, 16)
        np.testing.assert_allclose(model.attention(ids, 1, 0).of(1, 0).sum(1), 1, atol=1e-6)
        patched = model.patch("Once upon a time", source="Once upon a day", answer=" the", depths=[0], positions=[3])
        assert patched.after_LP[0, 0] == pytest.approx(patched.source, abs=1e-5)


FORKED = """
import os, signal, gpt2
def text(model):
    return model.generate("Once", max_tokens=3, temperature=0).text
model = gpt2.load(threads=2)
told = text(model)
if child := os.fork():
    raise SystemExit(os.waitpid(child, 0)[1])
signal.alarm(300)  # instead of waiting for threads that are not there
os._exit(text(model) != told or text(gpt2.load(threads=2)) != told)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=True)


def test_a_model_whose_tokenizer_cannot_be_read_leaves_nothing_open(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    for file in folder.glob("*"):
        if file.name in ("tokenizer.json", "vocab.json", "merges.txt"):
            file.write_text("{", encoding="utf-8")
    closed: list[str] = []
    monkeypatch.setattr(ReferenceBackend, "close", lambda self: closed.append(self.name))
    with pytest.raises(TokenizerError):
        gpt2.load(folder, backend="reference")
    assert closed == ["reference"]


@pytest.mark.parametrize("ask", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_a_model_is_not_copied_and_says_what_to_do(model: LanguageModel, ask) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled or copied: .* Call gpt2\.load where it is to be used"):
        ask(model)


@pytest.mark.parametrize("array", [np.array, lambda ids: list(map(np.int64, ids))], ids=["array", "list"])
def test_ids_of_an_array_come_back_as_numbers_of_python(model: LanguageModel, array) -> None:
    ids = array([5, 6, 7])
    found = [
        model.score(ids).ids,
        model.activations(ids).ids,
        model.attention(ids).ids,
        model.logit_lens(ids).ids,
    ]
    assert all(each == (5, 6, 7) and {type(token) for token in each} == {int} for each in found)
    completions = [
        model.generate(ids, max_tokens=1),
        model.generate([ids, ids], max_tokens=1)[1],
        next(model.generate_each([ids], max_tokens=1)),
    ]
    assert all(completion.prompt == [5, 6, 7] for completion in completions)
    assert model.score(ids) == model.score([5, 6, 7])
    assert np.array_equal(model.embed([ids]), model.embed([[5, 6, 7]]))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, ids: model.score(ids),
        lambda model, ids: model.stream(ids),
        lambda model, ids: model.beam_search(ids),
        lambda model, ids: model.logits(ids),
        lambda model, ids: model.attention(ids),
    ],
    ids=["score", "stream", "beam_search", "logits", "attention"],
)
def test_what_is_no_list_of_ids_is_named_alike_by_every_method(model: LanguageModel, call) -> None:
    for given, said in [
        (["a text"], "Token id 'a text' .* One text is given by itself"),
        ([5, True], "Token id True"),
        (np.array([[5, 6], [7, 8]]), r"Token id array\(\[5, 6\]\)"),
        ([999_999], "Token id 999999 of the .* ids are whole numbers from 0 to"),
        (np.array(5), r"got array\(5\)"),
    ]:
        with pytest.raises(GenerationError, match=said):
            call(model, given)
    assert model.backend.bytes() == 0


def test_one_of_several_texts_that_cannot_be_is_named(model: LanguageModel) -> None:
    long, texts = "a" * 5000, ["a", "b", "c"]
    for call, said in [
        (lambda given: model.generate(given, max_tokens=1), "prompt 3 of 3: "),
        (lambda given: list(model.generate_each(given, max_tokens=1)), "prompt 3: "),
        (model.embed, "text 3 of 3: "),
    ]:
        with pytest.raises(ContextError, match=f"^{said}The "):
            call([*texts[:2], long])
        with pytest.raises(GenerationError, match=f"^{said}A text or token ids can be .*: got None"):
            call([*texts[:2], None])
        with pytest.raises(TokenizerError, match=f"^{said}The text cannot be encoded"):
            call([*texts[:2], "\ud800"])
    with pytest.raises(GenerationError, match="got 'a' first, and nan at position 2"):
        model.generate(["a", "b", float("nan")])
    for call in (model.generate, model.embed):
        with pytest.raises(ContextError, match=r"^The "):
            call(long)
    assert model.backend.bytes() == 0


def test_a_stream_can_be_closed_before_and_after_it_began(model: LanguageModel) -> None:
    for steps in (0, 2):
        stream = model.stream("Once", max_tokens=20)
        for _ in range(steps):
            next(stream)
        stream.close()
        assert list(stream) == []
    assert model.backend.bytes() == 0


@pytest.mark.parametrize("name", [name for name in dir(LanguageModel) if not name.startswith("_")])
def test_help_says_what_every_argument_of_a_method_is(name: str) -> None:
    method = getattr(LanguageModel, name)
    assert method.__doc__
    if inspect.isfunction(method):
        for argument in list(inspect.signature(method).parameters)[1:]:
            assert f"\n            {argument}: " in method.__doc__, argument
