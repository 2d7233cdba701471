import contextlib
import dataclasses
import errno
import json
import math
import shutil
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gpt2
from gpt2 import checkpoint, files
from gpt2.config import ModelConfig
from gpt2.errors import (
    BackendError,
    ConfigError,
    DataError,
    MismatchError,
    MissingExtraError,
    SettingError,
    TrainingError,
)
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.report.card_sections import optimizer
from gpt2.tokenizer import Tokenizer
from gpt2.train import Finetuned, LoraConfig, TensorBoard, WeightsAndBiases, finetune, write_report
from gpt2.train import finetune as facade
from gpt2.train import state as states
from gpt2.train.adapted import AdaptedGPT
from gpt2.train.callbacks import Validation
from gpt2.train.config import TrainConfig
from gpt2.train.config_files import as_tree
from gpt2.train.finetune_card import card
from gpt2.train.finetune_data import Prepared
from gpt2.train.finetune_settings import choose_config
from gpt2.train.loop import Run
from gpt2.train.loss import softmax_in_place
from gpt2.train.objective import Objective
from gpt2.train.precision import Precision
from gpt2.train.step import Learner
from gpt2.train.weights import arrays_of, put_arrays

N_VOCAB = 300
SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=64, vocab_size=N_VOCAB)
CPU = ["run.device=cpu", "run.dtype=fp32", "run.threads=1", "run.sample_every_steps=0"]
Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model folder with the vocabulary of the corpus."""
    model = GPT(SHAPE)
    initialize(model, torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("base") / "model"
    arrays = {name: array.numpy() for name, array in model.named_arrays()}
    checkpoint.write_folder(folder, arrays, SHAPE, Tokenizer.from_folder(data / "vocabulary"))
    return folder


def run(base: Path, data: Path, out: Path, overrides: Sequence[str] = (), **named: Any) -> Finetuned:
    # the corpus parts its documents by empty lines, and here each shall be one
    text = out.parent / "stories.jsonl"
    if not text.exists():
        stories = (data / "text.txt").read_text(encoding="utf-8").split("\n\n")
        text.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories), encoding="utf-8")
    named.setdefault("epochs", 1)
    return finetune(text, out, model=base, overrides=[*CPU, "optim.lr=0.01", *overrides], **named)


@contextlib.contextmanager
def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Ctrl-C comes in this step of a run."""
    original = Learner.step

    def interrupted(self: Learner, *args: Any, **named: Any) -> Any:
        if named["step"] == step:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        yield


def test_a_text_is_learned_and_the_folder_is_a_model(base: Path, data: Path, tmp_path: Path) -> None:
    samples: list[int] = []

    def sampler(prepared: Prepared, vocabulary: Path) -> Any:
        assert (vocabulary / "vocab.json").is_file()
        return lambda model, step: samples.append(step) or [(prepared.opening, f"text {step}")]

    ended = run(base, data, tmp_path / "mine", ["run.sample_every_steps=30"], on_sample=sampler, report=True)
    assert ended.finished and ended.loss is not None and ended.loss_before is not None
    assert ended.loss < ended.loss_before - 1.0
    assert samples[0] == 0 and 30 in samples
    with gpt2.load(tmp_path / "mine") as model:
        assert model.generate("the cat", max_tokens=5, seed=1).text
        ours = model.logits([1, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
        assert AutoTokenizer.from_pretrained(tmp_path / "mine").vocab_size == N_VOCAB
    np.testing.assert_allclose(ours, theirs(torch.tensor([[1, 2, 3]])).logits[0].detach().numpy(), atol=1e-4)
    text_of_card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert f"{ended.loss:.3f}" in text_of_card and "stories.jsonl" in text_of_card
    page = (tmp_path / "mine" / "run" / "report.html").read_text(encoding="utf-8")
    assert "Loss over tokens" in page and "text 30" in page and "://" not in page


def test_the_card_tells_what_was_learned_and_measured(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"the cat sat on mat {i} and", "completion": " the dog saw it."} for i in range(60)]
    text.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    ended = finetune(text, tmp_path / "mine", model=base, overrides=[*CPU, "schedule.tokens=256"])
    rows = [json.loads(line) for line in (tmp_path / "mine" / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = {row["validation_tokens"] for row in rows if "validation_loss" in row}
    manifest = json.loads((tmp_path / "mine" / "run" / "data" / "manifest.json").read_text(encoding="utf-8"))
    prepared = Prepared(**manifest["prepared"])
    assert measured == {ended.loss_tokens} and 0 < ended.loss_tokens < prepared.validation_tokens
    text_of_card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert f"On {ended.loss_tokens:,} held-out tokens" in text_of_card
    assert f"{prepared.wanted_tokens:,} of them completions" in text_of_card


def test_where_nothing_is_held_out_the_advice_is_an_option_of_this_verb(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(base, data, tmp_path / "mine", ["schedule.tokens=256"], validation=0.0).loss is None
    assert "nothing is held out, so no validation loss will be measured: give a share of the text" in caplog.text


def test_stopped_and_gone_on_with_equals_uninterrupted(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["optim.dropout=0.1"]
    whole = run(base, data, tmp_path / "whole", settings)
    with interrupted_at(monkeypatch, 7):
        half = run(base, data, tmp_path / "parts", settings)
    assert not half.finished and half.steps == 7
    assert (tmp_path / "parts" / "model.safetensors").is_file()  # a model already
    rest = run(base, data, tmp_path / "parts", settings)
    assert rest.finished and rest.loss == whole.loss
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


@pytest.mark.parametrize("is_counted", [True, False])
def test_patience_counts_the_measurements_that_were_made_at_whatever_distance(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_counted: bool
) -> None:
    measured: list[int] = []

    def measure(self: Validation, run: Run) -> float:
        measured.append(run.progress.step)
        return 5.0 if run.progress.step <= 10 else 6.0

    monkeypatch.setattr(Validation, "_measure", measure)
    with interrupted_at(monkeypatch, 24):
        assert not run(base, data, tmp_path / "mine", ["run.validate_every_steps=10"]).finished
    assert measured == [0, 10, 20]
    saved = states.latest(tmp_path / "mine" / "run")
    assert saved is not None
    facts = files.read_json(saved / "training_state.json")
    assert facts["progress"]["validations_since_best"] == 1
    if not is_counted:  # as an earlier package left it
        del facts["progress"]["validations_since_best"]
        files.write_json(saved / "training_state.json", facts)
        files.write_manifest(saved, {"format": "training state", "version": 2})
    ended = run(base, data, tmp_path / "mine", ["run.validate_every_steps=2"])
    assert ended.turned and measured == [0, 10, 20, 26, 28]


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_and_its_base_may_move_but_the_base_stays_the_same(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, lora: bool
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(base, here / "base")
    whole = run(base, data, here / "whole", lora=lora)
    with interrupted_at(monkeypatch, 7):
        assert not run(here / "base", data, here / "mine", lora=lora).finished
    here.rename(there)
    other = GPT(SHAPE)
    initialize(other, torch.Generator().manual_seed(1))
    arrays = {name: array.numpy() for name, array in other.named_arrays()}
    checkpoint.write_folder(tmp_path / "other", arrays, SHAPE, Tokenizer.from_folder(data / "vocabulary"))
    with pytest.raises(ConfigError, match="that is not the model that it began from"):
        run(tmp_path / "other", data, there / "mine", lora=lora)
    assert run(there / "base", data, there / "mine", lora=lora).loss == whole.loss
    with gpt2.load(there / "mine") as moved:
        assert moved.logits([1, 2]).shape == (2, N_VOCAB)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # between others
def test_adapters_are_peft_s(base: Path, data: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import GPT2LMHeadModel

    ended = run(base, data, tmp_path / "mine", lora=LoraConfig(rank=4, targets=("c_attn", "mlp.c_proj")))
    assert ended.loss is not None and ended.loss_before is not None and ended.loss < ended.loss_before
    assert not (tmp_path / "mine" / "model.safetensors").exists()
    ids = list(range(20))
    with gpt2.load(tmp_path / "mine", backend="reference") as model, gpt2.load(base, backend="reference") as plain:
        ours = model.logits(ids)
        assert np.abs(ours - plain.logits(ids)).max() > 1e-3
    adapted = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), tmp_path / "mine").eval()
    theirs = adapted(torch.tensor([ids])).logits[0].detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # between others
def test_peft_s_adapters_are_read_and_go_forward_alike(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import GPT2LMHeadModel

    settings = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
        use_rslora=True,
        alpha_pattern={"c_fc": 7},
        task_type="CAUSAL_LM",
    )
    theirs = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(base), settings).eval()
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(20)[None]
    expected = theirs(ids).logits[0].detach().numpy()
    with gpt2.load(tmp_path / "adapter", backend="reference") as model:
        np.testing.assert_allclose(model.logits(ids[0].tolist()), expected, atol=1e-5)
    adapter = checkpoint.read_adapter(tmp_path / "adapter")
    assert adapter.scales["h.0.mlp.c_fc"] == pytest.approx(7 / 3**0.5)
    weights = checkpoint.read(base).weights
    arrays = {name: weights.float32(name) for name in weights.names}
    ours = AdaptedGPT(SHAPE, arrays, LoraConfig(rank=3, alpha=5 * 3**0.5), torch.Generator())
    put_arrays(ours, {name: torch.tensor(array) for name, array in adapter.arrays.items()})
    for module in ours.modules():
        if hasattr(module, "lora_A") and getattr(module, "out_features", 0) == SHAPE.n_inner:
            module.scale = 7 / 3**0.5  # one alpha for all is what we train; PEFT may have several
    np.testing.assert_allclose(ours.eval()(ids)[0].detach().numpy(), expected, atol=1e-5)


def test_only_the_adapters_learn(base: Path) -> None:
    weights = checkpoint.read(base).weights
    arrays = {name: weights.float32(name) for name in weights.names}
    model = AdaptedGPT(SHAPE, arrays, LoraConfig(rank=2), torch.Generator().manual_seed(1))
    for name, array in model.named_arrays():  # before the first step nothing is changed
        np.testing.assert_array_equal(array.numpy(), arrays[name])
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned == sum(array.numel() for _, array in arrays_of(model))
    ids = torch.arange(32).reshape(2, 16)
    objective = Objective(model, blocks=None, softmax=None, chunk_tokens=8, recompute=False)
    objective(ids, ids, None, None, 1.0).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, p in model.named_parameters() if name.endswith(("lora_A", "lora_B"))
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["wte"]}, "modules_to_save"),
        ({"base_model_name_or_path": "no-such-model"}, "its base 'no-such-model' is not on this machine"),
        ({"base_model_name_or_path": None}, "does not name the adapter's base"),
        ({"lora_alpha": "much"}, "no number lora_alpha"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    base: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {"h.0.attn.c_attn.lora_A": np.ones((2, 16)), "h.0.attn.c_attn.lora_B": np.ones((48, 2))}
    checkpoint.write_adapter(tmp_path, arrays, base=str(base), alpha=4, dropout=0.0, targets=("c_attn",))
    assert checkpoint.read(tmp_path).format == "lora"
    settings = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8")) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(gpt2.Gpt2Error, match=message):
        checkpoint.read(tmp_path)


def learner(config: TrainConfig) -> Learner:
    model = GPT(config.model).double()
    initialize(model, torch.Generator().manual_seed(0))
    return Learner(model, config, Precision(device=torch.device("cpu"), dtype=torch.float64, reason="to compare"))


def test_the_loss_is_of_the_wanted_tokens_alone(make_config: Make) -> None:
    config = make_config(loss={"rows": 0})
    draw = np.random.default_rng(0)
    inputs, targets = draw.integers(0, N_VOCAB, (2, 8, 16))
    wanted = draw.random((8, 16)) < 0.3
    wanted[3] = False
    pupil = learner(config)
    labels = torch.where(torch.from_numpy(wanted), torch.from_numpy(targets), -100)
    logits = pupil.model(torch.from_numpy(inputs))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    gradient = torch.autograd.grad(expected, pupil.model.h[0].mlp.c_fc.weight)[0]  # pyright: ignore[reportAttributeAccessIssue]
    report = pupil.step(inputs, targets, step=1, tokens=0, wanted_BT=wanted)
    assert report.loss == pytest.approx(float(expected.detach()), abs=1e-12)
    other = learner(config)
    other._backward(inputs, targets, wanted, None, 1)
    torch.testing.assert_close(other.model.h[0].mlp.c_fc.weight.grad, gradient, rtol=1e-9, atol=1e-12)  # pyright: ignore[reportAttributeAccessIssue]
    nothing = other.step(inputs, targets, step=1, tokens=0, wanted_BT=np.zeros_like(wanted))
    assert nothing.loss == 0.0 and not nothing.skipped


def test_what_is_compiled_never_sees_the_changing_number_of_wanted_tokens(make_config: Make) -> None:
    pupil = learner(make_config(loss={"rows": 0}))
    shapes: list[int] = []

    def compiled(logits: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append(logits.shape[0])
        return softmax_in_place(logits, *rest)

    objective = Objective(pupil.model, blocks=None, softmax=compiled, chunk_tokens=8, recompute=False)
    ids = torch.arange(32).reshape(2, 16)
    whole = objective(ids, ids, torch.ones(2, 16, dtype=torch.bool), None, 1.0)
    assert not shapes
    assert float(objective(ids, ids, None, None, 1.0).detach()) == pytest.approx(float(whole.detach()), abs=1e-12)
    assert shapes == [8] * 4


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(loss={"rows": 0}, run={"micro_batch_tokens": 128})
    inputs, targets = np.random.default_rng(0).integers(0, N_VOCAB, (2, 8, 16))
    plain, pressed = learner(config), learner(config)
    expected = plain.step(inputs, targets, step=1, tokens=0)
    original = Objective.forward
    most = [2]

    def small(self: Objective, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ids.shape[0] > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return original(self, ids, *rest)

    monkeypatch.setattr(Objective, "forward", small)
    found = pressed.step(inputs, targets, step=1, tokens=0)
    assert found.loss == pytest.approx(expected.loss, abs=1e-12)
    assert found.grad_norm == pytest.approx(expected.grad_norm, abs=1e-12)
    for one, other in zip(plain.model.parameters(), pressed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert pressed.micro_tokens == 32
    assert "Tried to allocate 20.00 MiB" in caplog.text and "continuing with 32" in caplog.text
    most[0] = 0
    with pytest.raises(TrainingError, match=r"16 tokens do not fit.*run\.recompute=true"):
        pressed.step(inputs, targets, step=2, tokens=128)


def test_recomputing_changes_nothing(make_config: Make) -> None:
    inputs, targets = np.random.default_rng(0).integers(0, N_VOCAB, (2, 8, 16))
    reports = [
        learner(make_config(loss={"rows": 0}, run={"recompute": on})).step(inputs, targets, step=1, tokens=0)
        for on in (False, True)
    ]
    assert reports[0].loss == reports[1].loss
    assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, abs=1e-14)


def test_it_ends_when_the_held_out_loss_turns_and_says_if_nothing_was_gained(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(base, data, tmp_path / "good")
    settings = ["optim.lr=3.0", "run.validate_every_steps=2"]
    ended = run(tmp_path / "good", data, tmp_path / "mine", settings, epochs=10)
    assert ended.turned and ended.steps - ended.best_step == 6 and not ended.gained
    assert "learning rate 3 is too high" in caplog.text and "Try --lr 0.75" in caplog.text
    assert "or --lora" in caplog.text
    assert "no better than good does" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    again = run(tmp_path / "good", data, tmp_path / "mine", settings, epochs=10)
    assert again == ended  # what has ended stays so


def ended_with(loss_before: float | None, loss: float | None) -> Finetuned:
    return Finetuned(
        finished=True, folder=Path("mine"), steps=9, best_step=9, loss_before=loss_before, loss=loss, turned=False
    )


def test_what_was_never_finite_has_gained_nothing(make_config: Make) -> None:
    assert ended_with(2.0, 1.9).gained and ended_with(None, None).gained and ended_with(None, 1.9).gained
    assert not ended_with(2.0, 2.0).gained and not ended_with(2.0, None).gained
    held_out, whole = (
        Prepared(
            documents=3, tokens=900, wanted_tokens=900, validation_documents=1, validation_tokens=tokens, opening=""
        )
        for tokens in (99, 0)
    )
    never = card(base="base", config=make_config(), prepared=held_out, ended=ended_with(2.0, None), text="novel.txt")
    assert "Nothing was held out" not in never and "no finite loss on the held-out text" in never
    alone = card(base="base", config=make_config(), prepared=whole, ended=ended_with(None, None), text="novel.txt")
    assert "Nothing was held out" in alone


def test_the_optimizer_is_named_as_it_is(make_config: Make) -> None:
    adamw = as_tree(make_config(optim={"matrices": "adamw"}))["optim"]
    assert optimizer(adamw).startswith("AdamW, peak learning rate 0.01, betas ")
    muon_run = make_config(optim={"matrices": "muon", "muon_lr": 0.002})
    muon = as_tree(muon_run)["optim"]
    named = "Muon for the matrices, peak learning rate 0.002, weight decay 0; AdamW, peak learning rate 0.01, "
    assert optimizer(muon).startswith(named) and optimizer(muon).endswith(" for the rest")
    prepared = Prepared(
        documents=3, tokens=900, wanted_tokens=900, validation_documents=1, validation_tokens=99, opening=""
    )
    text = card(base="base", config=muon_run, prepared=prepared, ended=ended_with(2.0, 1.9), text="novel.txt")
    assert f"| optimizer | {optimizer(muon)} |" in text


def test_the_recipe_follows_the_text() -> None:
    def chosen(tokens: int, *overrides: str, lora: int = 0) -> TrainConfig:
        prepared = Prepared(
            documents=3, tokens=tokens, wanted_tokens=tokens, validation_documents=1, validation_tokens=99, opening=""
        )
        return choose_config(
            dataclasses.replace(SHAPE, n_positions=1024, n_embd=768),
            prepared,
            name="base",
            out=Path("out"),
            lora=LoraConfig(rank=lora),
            overrides=["run.device=cpu", *overrides],
        )

    tiny, novel, large = chosen(700), chosen(200_000), chosen(80_000_000)
    assert tiny.schedule.sequence == ((0.0, 128),) and tiny.schedule.batch_tokens == 128
    assert novel.schedule.sequence == large.schedule.sequence == ((0.0, 1024),)
    assert novel.schedule.batch_tokens == 4096 and large.schedule.batch_tokens == 8192
    passes = [round(c.schedule.tokens / n, 1) for c, n in ((tiny, 700), (novel, 200_000), (large, 80_000_000))]
    assert passes == [12.1, 6.0, 1.0]
    assert chosen(200_000, lora=8).optim.lr > novel.optim.lr
    for n in (100, 256, 1024):  # and a batch of whole sequences, though nobody spoke of the batch
        own = chosen(200_000, f"schedule.sequence=[[0.0, {n}]]").schedule
        assert own.sequence == ((0.0, n),) and own.batch_tokens == n * (5000 // n)
    staged = chosen(200_000, "schedule.sequence=[[0.0, 96], [0.5, 100]]").schedule
    assert (staged.sequence, staged.batch_tokens) == (((0.0, 96), (0.5, 100)), 4800)
    assert chosen(200_000, "optim.lr=0.5").optim.lr == 0.5
    with pytest.raises(ConfigError, match=r"Did you mean optim\.lr"):
        chosen(200_000, "optim.l=0.5")


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("optim.l=0.5", SettingError),
        ("run.device=tpu", BackendError),
        pytest.param(
            "run.device=cuda", BackendError, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it is here")
        ),
        ("lora.targets=['c_atn']", MismatchError),
    ],
)
def test_a_wrong_setting_is_said_before_the_text_is_read(
    base: Path, data: Path, tmp_path: Path, override: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(base, data, tmp_path / "mine", [override], lora=True)
    assert not (tmp_path / "mine").exists()


def test_what_cannot_be_finetuned_is_said(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds 'letter\.txt'"):
        run(base, data, tmp_path / "full")
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "one.txt").write_text("word " * 1000, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"it lies in .*chapters, all of which is the text"
    ):  # and would be read again
        facade(tmp_path / "chapters", tmp_path / "chapters" / "new", model=base)
    with pytest.raises(gpt2.ModelNotFoundError):
        facade(data / "text.txt", tmp_path / "new", model="no-such-model")
    with pytest.raises(DataError, match="no such file"):
        facade(tmp_path / "novel.txt", tmp_path / "new", model=base)
    for epochs in (math.nan, math.inf, 0.0, -1.0):
        with pytest.raises(ConfigError, match="epochs must be a number above 0"):
            run(base, data, tmp_path / "never", epochs=epochs)
    assert not (tmp_path / "never").exists()
    with pytest.raises(gpt2.Gpt2Error, match="LoRA cannot change 'c_atn'"):
        run(base, data, tmp_path / "new", lora=LoraConfig(rank=2, targets=("c_atn",)))


def test_a_full_disk_is_named_where_the_text_is_prepared_and_where_the_model_is_left(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module = sys.modules["gpt2.train.finetune"]
    for name in ("prepare_text", "_export"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(
                TrainingError, match=r"mine cannot be filled: the disk is full\. Make room, and run the"
            ):
                run(base, data, tmp_path / "mine")
    assert run(base, data, tmp_path / "mine").finished


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run that took a step"):
        write_report(tmp_path)


def test_trackers_are_told_every_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            told.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append("closed")

        def log(self, values: dict[str, Any], *, step: int) -> None:
            told.append((values, step))

        finish = close

    line = {"step": 3, "tokens": 9, "seconds": 1.0, "loss": 2.5, "mfu": None}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", types.SimpleNamespace(SummaryWriter=Writer))
    board = TensorBoard(tmp_path)
    board.tell(line)
    board.close()
    assert told == [str(tmp_path), ("loss", 2.5, 3), "closed"]
    told.clear()
    init = types.SimpleNamespace(init=lambda project, dir: Writer(project))
    monkeypatch.setitem(sys.modules, "wandb", init)
    bias = WeightsAndBiases("mine", tmp_path / "w")
    bias.tell(line)
    bias.close()
    assert told == ["mine", ({"step": 3, "tokens": 9, "seconds": 1.0, "loss": 2.5}, 3), "closed"]
    told.clear()
    WeightsAndBiases("mine", tmp_path / "w").begin()
    TensorBoard(tmp_path).begin()
    assert told == ["mine", str(tmp_path)]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"gpt2kit\[wandb\]"):
        WeightsAndBiases("mine", tmp_path)
