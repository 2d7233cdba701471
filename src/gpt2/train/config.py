"""Every setting of a training run: a tree of frozen dataclasses, validated here. `config_files` reads and writes it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gpt2.config import ModelConfig
from gpt2.errors import SettingError
from gpt2.files import is_utf8


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The training data.

    Attributes:
        folder: token shards, as `gpt2 prepare` writes them.
        tokenizer: folder of the vocabulary that wrote them; empty: the published one.
        mixture: subfolders of `folder` and their weights; empty: only `folder` itself.
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
        muon_cautious: whether it decays only those weights that the step already makes smaller.
        clip_norm: longer gradients are scaled to this length; 0: no clipping.
        zero_projections: begin with both `c_proj` of every block at zero.
        dropout: of the embedding, the attention weights and what each sublayer adds, while training.
        average_fraction: the last part of the run, over whose steps the weights are averaged; a finished run leaves
            the average.
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
        warmup_fraction: the part over which the rate rises from 0.
        decay_fraction: the part over which the rate falls (trapezoid only).
        final_fraction: the rate at the end, as a fraction of the peak.
        momentum_warmup_steps: steps over which Muon's momentum rises from 0.85.
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
        """The stages of the batch; at least one."""
        return self.batch_stages or ((0.0, self.batch_tokens),)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What the loss runs over.

    Attributes:
        rows: rows of the head used in most of the run, for slow processors; 0: always all.
        full_fraction: the last part of the run, which uses all rows.
        chunk_tokens: the most tokens whose logits exist at one time; 0: as suits the device.
    """

    rows: int = 0
    full_fraction: float = 0.15
    chunk_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingConfig:
    """Training with rounded weights, so that little is lost when they are stored rounded.

    Attributes:
        form: of the blocks' matrices and the token embedding; "none": never rounded.
        fraction: the last part of the run, in which they are rounded.
    """

    form: Literal["none", "int8", "int4"] = "none"
    fraction: float = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class StartConfig:
    """The initial weights.

    Attributes:
        model: a model to start from, by name, folder or hub id; empty: random weights, drawn by the seed.
    """

    model: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Adapters: trainable low-rank changes of some matrices of a frozen model.

    Attributes:
        rank: of a change; 0: no adapters, the whole model learns.
        alpha: a change is scaled by alpha / rank.
        dropout: of a change's input, while training.
        targets: the maps to change, by the end of their names.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("c_attn", "c_proj", "c_fc")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Where and how a run computes, and what it leaves behind.

    Attributes:
        folder: of the run; empty: the run cannot start.
        seed: of the initial weights, the order of the data and the rows of the loss.
        device: where it computes.
        dtype: of the matrix products; weights and optimizer are float32. fp16 is for GPUs without bf16: the loss is
            scaled so that gradients stay within its range.
        threads: on a CPU; 0: its physical cores.
        micro_batch_tokens: of one forward and backward pass; 0: as suits the device.
        compile: have PyTorch compile the blocks and the softmax of the loss.
        residual: dtype of the residual stream; bf16 only if the products are in bf16: less memory traffic, less exact.
        validate_every_steps: 0: only at the end.
        validation_tokens: of one measurement; 0: all held-out tokens.
        sample_every_steps: 0: never.
        checkpoint_every_steps: 0: only at the end and when stopped.
        keep: how many of the newest checkpoints to keep, besides the best.
        patience: validations in a row without a new best after which the run ends; 0: it never ends early.
        recompute: keep only the input of each block and recompute the rest in the backward pass: less memory, a third
            more work.
        parallel: how several processes share the model: each holds all of it (ddp), or a part of each array (fsdp).
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
        SettingError: a setting is invalid, alone or with the others.
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
            ("optim.clip_norm", optim.clip_norm, 0.0, 1e30),
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
            if not low <= value <= high:  # refuses NaN too
                raise SettingError(f"{name} must lie between {low:,} and {high:,}: got {value}.")
        self._check_texts()
        self._check_stages()
        if self.lora.rank and not self.start.model:
            raise SettingError(
                "Adapters change a model that is there: lora.rank is set and start.model is empty. Name it."
            )
        if self.lora.rank and optim.matrices == "muon":
            raise SettingError("Adapters are trained with AdamW: set optim.matrices=adamw, or lora.rank=0.")
        for name, weight in self.data.mixture.items():
            if not 0.0 < weight < math.inf:
                raise SettingError(f"data.mixture.{name} must be above 0: got {weight}. Leave out what is not wanted.")

    def _check_texts(self) -> None:
        """Refuse text that is not UTF-8, as a path may be: a run saves its settings as text files."""
        data, run = self.data, self.run
        for name, texts in (
            ("data.folder", (data.folder,)),
            ("data.tokenizer", (data.tokenizer,)),
            ("data.mixture", data.mixture),
            ("data.validation", (data.validation,)),
            ("start.model", (self.start.model,)),
            ("lora.targets", self.lora.targets),
            ("run.folder", (run.folder,)),
            ("run.device", (run.device,)),
        ):
            for text in texts:
                if not is_utf8(text):
                    raise SettingError(f"{name} cannot be {text!r}: that is not UTF-8. Choose another name.")

    def _check_stages(self) -> None:
        for name, stages in (("sequence", self.schedule.sequence), ("batch_stages", self.schedule.batches)):
            begins = [begin for begin, _ in stages]
            if not stages or begins[0] != 0.0 or begins != sorted(set(begins)) or begins[-1] >= 1.0:
                raise SettingError(
                    f"schedule.{name} must be stages that begin at 0 and then later and later below 1: got {begins}. "
                    f"Write [[0.0, 512], [0.9, 1024]]."
                )
        for _, length in self.schedule.sequence:
            if not 1 <= length <= self.model.n_positions:
                raise SettingError(
                    f"schedule.sequence cannot have {length:,} tokens: the model's context is "
                    f"{self.model.n_positions:,}. Choose shorter sequences or more positions."
                )
            for _, batch_tokens in self.schedule.batches:
                if batch_tokens < 1 or batch_tokens % length:
                    name = "batch_stages" if self.schedule.batch_stages else "batch_tokens"
                    raise SettingError(
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
