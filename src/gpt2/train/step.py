"""One optimizer step: micro-batches forward and backward, the gradient's length, the update.

The host waits for the device once a step, for the loss and the gradient's length, before the update is queued; while
the device updates, the host prepares the next step.

Axes: B sequences of the batch, T tokens of a sequence, N tokens of a micro-batch.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2.model.gpt import GPT
from gpt2.optim import Muon, adamw, cosine, partition, trapezoid, warm_momentum
from gpt2.train.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from gpt2.train.loss import Rows, cross_entropy, fused_softmax, sample_rows
from gpt2.train.precision import Precision
from gpt2.train.rounding import rounded

_MOMENTUM_START = 0.85
_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536, "mps": 8192}
_CHUNK_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 2048}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: its number, from 1.
        tokens: trained on since the run began, this step's included.
        loss: mean over the batch in nats per token, before the update.
        grad_norm: Euclidean length of the whole gradient, before clipping.
        lr: AdamW's learning rate.
        skipped: loss or gradient was not finite, and nothing was updated.
        seconds: it took.
    """

    step: int
    tokens: int
    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    seconds: float


class Learner:
    """A model and the optimizers that change it.

    Args:
        model: on its device, initialised.
        config: of the run.
        precision: of the run.
        frequency_V: share of each token in the corpus; needed where the loss runs over sampled rows.
    """

    def __init__(
        self,
        model: GPT,
        config: TrainConfig,
        precision: Precision,
        frequency_V: NDArray[np.float64] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.precision = precision
        self.optimizers = build_optimizers(model, config.optim)
        self._frequency_V = frequency_V
        # One block is compiled and serves for all: a fraction of the time that compiling the whole model takes.
        self._blocks = [torch.compile(block, dynamic=False) for block in model.h] if config.run.compile else None
        self._softmax = fused_softmax() if config.run.compile else None

    def step(
        self, inputs_BT: NDArray[np.int64], targets_BT: NDArray[np.int64], *, step: int, tokens: int
    ) -> StepReport:
        """Learn from one batch.

        Args:
            inputs_BT: token ids.
            targets_BT: the token that follows each.
            step: number of this step, from 1.
            tokens: trained on before it.
        """
        began = time.perf_counter()
        progress = tokens / self.config.schedule.tokens
        lr = self._schedule(progress, step)
        with self.rounded(progress):
            summed_loss = self._backward(inputs_BT, targets_BT, self._rows(targets_BT, progress, step))
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        loss, grad_norm = torch.stack((summed_loss, norm.to(summed_loss.dtype))).tolist()
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite:
            if limit := self.config.optim.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, limit, norm)
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)
        return StepReport(
            step=step,
            tokens=tokens + inputs_BT.size,
            loss=loss,
            grad_norm=grad_norm,
            lr=lr,
            skipped=not finite,
            seconds=time.perf_counter() - began,
        )

    def uses_all_rows(self, progress: float) -> bool:
        """Whether the loss at this point of the run is over the whole vocabulary."""
        return not self.config.loss.rows or progress >= 1.0 - self.config.loss.full_fraction

    def rounded(self, progress: float) -> AbstractContextManager[None]:
        """A context in which the weights are as they will be stored, if this point of the run asks for that."""
        rounding = self.config.rounding
        if rounding.form == "none" or progress < 1.0 - rounding.fraction:
            return nullcontext()
        kinds = partition(self.model.named_parameters())
        return rounded([*kinds["matrix"].values(), self.model.wte.weight], rounding.form)

    def _backward(self, inputs_BT: NDArray[np.int64], targets_BT: NDArray[np.int64], rows: Rows | None) -> Tensor:
        """Fill the gradients with those of the batch's mean loss, and return it."""
        device = self.precision.device
        n_tokens, T = inputs_BT.size, inputs_BT.shape[1]
        sequences = max(1, micro_batch_tokens(self.config.run, self.precision) // T)
        loss = torch.zeros((), device=device, dtype=self.model.wte.weight.dtype)
        for at in range(0, inputs_BT.shape[0], sequences):
            inputs = _on(device, inputs_BT[at : at + sequences])
            targets_N = _on(device, targets_BT[at : at + sequences]).flatten()
            with self.precision.autocast():
                x_ND = self.model.hidden(inputs, blocks=self._blocks).flatten(0, 1)
                head = self.model.wte.weight
                if rows is not None:
                    head, targets_N = head[rows.ids], rows.place[targets_N]
                part = cross_entropy(
                    x_ND,
                    head,
                    targets_N,
                    correction_V=None if rows is None else rows.correction,
                    chunk_tokens=chunk_tokens(self.config, self.precision),
                    scale=1.0 / n_tokens,
                    softmax=self._softmax,
                )
            part.backward()
            loss += part.detach()
        return loss

    def _rows(self, targets_BT: NDArray[np.int64], progress: float, step: int) -> Rows | None:
        if self.uses_all_rows(progress):
            return None
        assert self._frequency_V is not None, "sampled rows need the tokens' frequencies"
        rng = np.random.default_rng([self.config.run.seed, step])  # so there is no state to save
        rows = sample_rows(targets_BT, self._frequency_V, self.config.loss.rows, rng)
        return rows.to(self.precision.device)

    def _schedule(self, progress: float, step: int) -> float:
        """Write this step's learning rates and momentum into the optimizers, and return AdamW's rate."""
        factor = lr_factor(self.config.schedule, progress)
        optim = self.config.optim
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(optimizer, Muon):
                    group["lr"] = optim.muon_lr * factor
                    group["momentum"] = warm_momentum(
                        step - 1,
                        steps=self.config.schedule.momentum_warmup_steps,
                        start=min(_MOMENTUM_START, optim.muon_momentum),
                        end=optim.muon_momentum,
                    )
                else:
                    group["lr"] = optim.lr * factor
        return optim.lr * factor


def micro_batch_tokens(run: RunConfig, precision: Precision) -> int:
    """Tokens of one forward and backward pass: what was asked, or what suits the device."""
    return run.micro_batch_tokens or _MICRO_BATCH_TOKENS[precision.device.type]


def chunk_tokens(config: TrainConfig, precision: Precision) -> int:
    """The most tokens whose logits exist at one time: what was asked, or what suits the device."""
    return config.loss.chunk_tokens or _CHUNK_TOKENS[precision.device.type]


def lr_factor(schedule: ScheduleConfig, progress: float) -> float:
    """The part of the peak learning rate at a point of the run."""
    if schedule.shape == "cosine":
        return cosine(progress, warmup=schedule.warmup_fraction, final=schedule.final_fraction)
    return trapezoid(
        progress, warmup=schedule.warmup_fraction, decay=schedule.decay_fraction, final=schedule.final_fraction
    )


def build_optimizers(model: nn.Module, optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a run: between them they hold every parameter once."""
    kinds = partition(model.named_parameters())
    by_muon = kinds["matrix"] if optim.matrices == "muon" else {}
    by_adamw = {} if by_muon else kinds["matrix"]
    optimizers: list[torch.optim.Optimizer] = []
    if by_muon:
        optimizers.append(
            Muon(by_muon.items(), lr=optim.muon_lr, momentum=optim.muon_momentum, weight_decay=optim.muon_weight_decay)
        )
    optimizers.append(
        adamw(
            [*by_adamw.values(), *kinds["embedding"].values()],
            kinds["vector"].values(),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
    )
    return optimizers


def _on(device: torch.device, ids: NDArray[np.int64]) -> Tensor:
    """Token ids on a device; to a GPU they travel while the host goes on."""
    tensor = torch.from_numpy(ids)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
