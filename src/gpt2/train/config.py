"""Every setting of a training run: a tree of frozen dataclasses, read from TOML, checked once, here.

A recipe is such a TOML file inside the package (`gpt2/recipes`). What a file leaves out has the default below;
`--set section.name=value` comes last. The resolved tree is saved in the run's folder as TOML, and is a recipe itself.
"""

import copy
import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gpt2.config import ModelConfig
from gpt2.errors import ConfigError
from gpt2.files import read_bounded

T = TypeVar("T")
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is trained on.

    Attributes:
        folder: token shards, as `gpt2 prepare` writes them.
        tokenizer: folder of the vocabulary that wrote them; empty: the published one.
        mixture: subfolders of `folder` and their weights; empty: `folder` itself is all there is.
        validation: subfolder whose shards are held out; empty: the validation split of `folder`, if it has one.
    """

    folder: str = ""
    tokenizer: str = ""
    mixture: Mapping[str, float] = field(default_factory=dict[str, float])
    validation: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How a gradient becomes an update.

    Attributes:
        matrices: the optimizer of the blocks' linear maps; everything else has AdamW.
        lr: peak learning rate of AdamW.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: AdamW's, on matrices and embeddings.
        muon_lr: peak learning rate of Muon.
        muon_momentum: Muon's, after its warm-up.
        muon_weight_decay: Muon's.
        muon_cautious: whether it decays only those weights that the step makes smaller already.
        clip_norm: longer gradients are scaled to this length; 0 leaves them.
        zero_projections: begin with both `c_proj` of every block at zero.
        dropout: of the embedding, the attention weights and what each sublayer adds, while training.
        average_fraction: the last part of the run over whose steps the weights are averaged; the average is what the
            run leaves when all its tokens are done.
    """

    matrices: Literal["adamw", "muon"] = "adamw"
    lr: float = 6e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.0
    muon_cautious: bool = False
    clip_norm: float = 1.0
    zero_projections: bool = False
    dropout: float = 0.0
    average_fraction: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """What changes as the run goes on; fractions are of the run's tokens.

    Attributes:
        tokens: length of the run.
        batch_tokens: tokens of one optimizer step.
        batch_stages: stages (fraction at which it begins, tokens of one step), the first at 0; empty: always
            `batch_tokens`.
        sequence: stages (fraction at which it begins, tokens of a sequence), the first at 0.
        shape: of the learning rate.
        warmup_fraction: over which it rises from 0.
        decay_fraction: over which it falls (trapezoid only).
        final_fraction: of the peak, at the end.
        momentum_warmup_steps: over which Muon's momentum rises from 0.85.
    """

    tokens: int = 10_000_000
    batch_tokens: int = 524_288
    batch_stages: tuple[tuple[float, int], ...] = ()
    sequence: tuple[tuple[float, int], ...] = ((0.0, 1024),)
    shape: Literal["cosine", "trapezoid"] = "cosine"
    warmup_fraction: float = 0.0
    decay_fraction: float = 0.5
    final_fraction: float = 0.0
    momentum_warmup_steps: int = 0

    @property
    def batches(self) -> tuple[tuple[float, int], ...]:
        """The stages of the batch, of which there is at least one."""
        return self.batch_stages or ((0.0, self.batch_tokens),)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What the loss runs over.

    Attributes:
        rows: rows of the head that are used in most of the run, where the processor is slow; 0: always all.
        full_fraction: the last part of the run, which uses all rows.
        chunk_tokens: the most tokens whose logits exist at one time; 0: chosen by the device.
    """

    rows: int = 0
    full_fraction: float = 0.15
    chunk_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingConfig:
    """What weights are rounded to while they still learn, so that little is lost when they are stored so.

    Attributes:
        form: of the blocks' matrices and the token embedding; none: they are never rounded.
        fraction: the last part of the run, in which they are.
    """

    form: Literal["none", "int8", "int4"] = "none"
    fraction: float = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class StartConfig:
    """What the first weights are.

    Attributes:
        model: a model to go on from, by name, folder or hub id; empty: fresh ones, drawn by the seed.
    """

    model: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Adapters: low-rank changes of some matrices, trained while the model itself stays as it is.

    Attributes:
        rank: of a change; 0: there are no adapters, and the whole model learns.
        alpha: times a change, over the rank.
        dropout: of what a change reads, while training.
        targets: the maps that are changed, by the end of their names.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("c_attn", "c_proj", "c_fc")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Where and how it runs, and what it leaves behind.

    Attributes:
        folder: of the run; empty: the run cannot start.
        seed: of the first weights, the order of the data and the rows of the loss.
        device: where it computes.
        dtype: of the matrix products; weights and optimizer are float32. fp16 is for GPUs without bf16: the loss is
            scaled so that gradients stay within its range.
        threads: on a CPU; 0: its physical cores.
        micro_batch_tokens: of one forward and backward pass; 0: chosen by the device.
        compile: have PyTorch compile the blocks and the softmax of the loss.
        residual: dtype of the residual stream; bf16 only where the products are: less to read and write, less exact.
        validate_every_steps: 0: only at the end.
        validation_tokens: of one measurement; 0: all there are.
        sample_every_steps: 0: never.
        checkpoint_every_steps: 0: only at the end and when stopped.
        keep: newest checkpoints that stay, beside the best.
        patience: validations in a row without a new best after which the run ends; 0: it never ends early.
        recompute: keep only what enters each block, and compute the rest again in the backward pass: less memory, a
            third more work.
        parallel: how several processes share the model: each has it whole (ddp), or a part of each array (fsdp).
    """

    folder: str = ""
    seed: int = 1
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: int = 0
    micro_batch_tokens: int = 0
    compile: bool = False
    residual: Literal["fp32", "bf16"] = "fp32"
    validate_every_steps: int = 250
    validation_tokens: int = 262_144
    sample_every_steps: int = 0
    checkpoint_every_steps: int = 250
    keep: int = 2
    patience: int = 0
    recompute: bool = False
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole training run.

    Raises:
        ConfigError: settings that cannot be, alone or together.
    """

    model: ModelConfig
    start: StartConfig = field(default_factory=StartConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rounding: RoundingConfig = field(default_factory=RoundingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        optim, schedule, loss, rounding, run = self.optim, self.schedule, self.loss, self.rounding, self.run
        for name, value, low, high in (
            ("optim.lr", optim.lr, 0.0, 10.0),
            ("optim.betas", optim.betas[0], 0.0, 0.99999),
            ("optim.betas", optim.betas[1], 0.0, 0.9999999),
            ("optim.eps", optim.eps, 0.0, 1.0),
            ("optim.weight_decay", optim.weight_decay, 0.0, 100.0),
            ("optim.muon_lr", optim.muon_lr, 0.0, 10.0),
            ("optim.muon_momentum", optim.muon_momentum, 0.0, 0.99999),
            ("optim.muon_weight_decay", optim.muon_weight_decay, 0.0, 100.0),
            ("optim.clip_norm", optim.clip_norm, 0.0, math.inf),
            ("optim.dropout", optim.dropout, 0.0, 0.99),
            ("optim.average_fraction", optim.average_fraction, 0.0, 1.0),
            ("lora.rank", self.lora.rank, 0, 1 << 16),
            ("lora.alpha", self.lora.alpha, 0.0, 1e6),
            ("lora.dropout", self.lora.dropout, 0.0, 0.99),
            ("schedule.tokens", schedule.tokens, 1, 1 << 50),
            ("schedule.batch_tokens", schedule.batch_tokens, 1, 1 << 30),
            ("schedule.warmup_fraction", schedule.warmup_fraction, 0.0, 0.99),
            ("schedule.decay_fraction", schedule.decay_fraction, 0.0, 1.0),
            ("schedule.final_fraction", schedule.final_fraction, 0.0, 1.0),
            ("schedule.momentum_warmup_steps", schedule.momentum_warmup_steps, 0, 1 << 30),
            ("loss.rows", loss.rows, 0, self.model.vocab_size),
            ("loss.full_fraction", loss.full_fraction, 0.0, 1.0),
            ("loss.chunk_tokens", loss.chunk_tokens, 0, 1 << 30),
            ("rounding.fraction", rounding.fraction, 0.0, 1.0),
            ("run.seed", run.seed, 0, (1 << 63) - 1),
            ("run.threads", run.threads, 0, 4096),
            ("run.micro_batch_tokens", run.micro_batch_tokens, 0, 1 << 30),
            ("run.validate_every_steps", run.validate_every_steps, 0, 1 << 40),
            ("run.validation_tokens", run.validation_tokens, 0, 1 << 40),
            ("run.sample_every_steps", run.sample_every_steps, 0, 1 << 40),
            ("run.checkpoint_every_steps", run.checkpoint_every_steps, 0, 1 << 40),
            ("run.keep", run.keep, 1, 1 << 30),
            ("run.patience", run.patience, 0, 1 << 30),
        ):
            if not low <= value <= high:  # not so for NaN either
                raise ConfigError(f"{name} must lie between {low:,} and {high:,}: got {value}.")
        self._check_stages()
        if self.lora.rank and not self.start.model:
            raise ConfigError(
                "Adapters change a model that is there: lora.rank is set and start.model is empty. Name it."
            )
        if self.lora.rank and optim.matrices == "muon":
            raise ConfigError("Adapters are trained with AdamW: set optim.matrices=adamw, or lora.rank=0.")
        for name, weight in self.data.mixture.items():
            if not 0.0 < weight < math.inf:
                raise ConfigError(f"data.mixture.{name} must be above 0: got {weight}. Leave out what is not wanted.")

    def _check_stages(self) -> None:
        for name, stages in (("sequence", self.schedule.sequence), ("batch_stages", self.schedule.batches)):
            begins = [begin for begin, _ in stages]
            if not stages or begins[0] != 0.0 or begins != sorted(set(begins)) or begins[-1] >= 1.0:
                raise ConfigError(
                    f"schedule.{name} must be stages that begin at 0 and then later and later below 1: got {begins}. "
                    f"Write [[0.0, 512], [0.9, 1024]]."
                )
        for _, length in self.schedule.sequence:
            if not 1 <= length <= self.model.n_positions:
                raise ConfigError(
                    f"schedule.sequence cannot have {length:,} tokens: the model's context is "
                    f"{self.model.n_positions:,}. Choose shorter sequences or more positions."
                )
            for _, batch_tokens in self.schedule.batches:
                if batch_tokens < 1 or batch_tokens % length:
                    name = "batch_stages" if self.schedule.batch_stages else "batch_tokens"
                    raise ConfigError(
                        f"schedule.{name} must be a multiple of every sequence: {batch_tokens:,} is not one of "
                        f"{length:,}. Try {max(1, round(batch_tokens / length)) * length:,}."
                    )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run; the last one completes `schedule.tokens`."""
        total = self.schedule.tokens
        ends = [begin * total for begin, _ in self.schedule.batches[1:]] + [total]
        steps, tokens = 0, 0
        for (_, batch_tokens), end in zip(self.schedule.batches, ends, strict=True):
            of_stage = max(0, math.ceil((end - tokens) / batch_tokens))
            steps, tokens = steps + of_stage, tokens + of_stage * batch_tokens
        return steps


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe of the package by its name, or a TOML file, and apply `section.name=value` overrides.

    Raises:
        ConfigError: no such recipe or file, not TOML, an unknown key, or a value that cannot be.
    """
    return config_from(_read_toml(str(recipe)), overrides)


def config_from(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
    """A configuration from nested mappings, such as `tomllib` and `as_tree` give, and overrides of them.

    Raises:
        ConfigError: an unknown key (the nearest one is named), a missing one, or a value that cannot be.
    """
    changed = copy.deepcopy(dict(tree))
    for override in overrides:
        _apply(changed, override)
    return _build(TrainConfig, changed, "")


def as_tree(config: TrainConfig) -> dict[str, Any]:
    """Nested plain dicts, lists and numbers: what `config_from` reads and JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_toml(config: TrainConfig) -> str:
    """The resolved configuration as a TOML file that `load_config` reads back to an equal one."""
    lines: list[str] = []
    for section, values in as_tree(config).items():
        lines += [f"[{section}]", *(f"{key} = {_toml_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def recipe_names() -> list[str]:
    """The recipes inside the package."""
    folder = resources.files("gpt2.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _read_toml(recipe: str) -> dict[str, Any]:
    if recipe in recipe_names():
        data = (resources.files("gpt2.recipes") / f"{recipe}.toml").read_bytes()
    elif Path(recipe).is_file():
        data = read_bounded(Path(recipe), _LIMIT_BYTES)
    else:
        near = difflib.get_close_matches(recipe, recipe_names(), n=1)
        advice = f"Did you mean {near[0]!r}?" if near else "Name one of those, or a TOML file."
        raise ConfigError(f"There is no recipe {recipe!r}: here are {', '.join(recipe_names())}. {advice}")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{recipe} is not TOML: {error}.") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not sections or not all((*sections, key)):
        raise ConfigError(f"{override!r} cannot be set: write section.name=value, such as optim.lr=0.001.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a word needs no quotes
    for section in sections:
        inner: object = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r} cannot be set: {section!r} has no settings inside it.")
        tree = inner
    tree[key] = value


def _build(cls: type[T], values: Any, where: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where.rstrip('.')} must be a section of settings: got {values!r}.")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]  # always a dataclass
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            advice = f"Did you mean {where}{near[0]}?" if near else f"Known are {', '.join(fields)}."
            raise ConfigError(f"There is no setting {where}{key}. {advice}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"The setting {where}{name} is missing.")
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`, without guessing: a whole number may stand for a float, nothing else for another."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{where}.")  # pyright: ignore[reportArgumentType]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in inner:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(inner)}: got {value!r}.")
    if origin is tuple and isinstance(value, list | tuple):
        inner = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(value) == len(inner):
            return tuple(_convert(i, v, where) for i, v in zip(inner, value, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _convert(inner[1], v, f"{where}.{key}") for key, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise ConfigError(f"{where} must be {names.get(kind, 'written as in the recipes')}: got {value!r}.")


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # numbers, booleans and quoted texts are written alike in both
