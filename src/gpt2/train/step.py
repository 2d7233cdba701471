"""One optimizer step: micro-batches forward and backward, the gradient norm, the update.

The host waits for the device once a step, for the loss and the gradient norm, before it queues the update; while the
device updates, the host prepares the next step.

Axes: B sequences of the batch, T tokens of a sequence, N tokens of a micro-batch.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2.errors import TrainingError
from gpt2.model.gpt import GPT, whole
from gpt2.optim import average, partition, take_average
from gpt2.train import parallel
from gpt2.train.activated_map import activated_map
from gpt2.train.attention import choose_attention
from gpt2.train.attention_blocks import attend_in_blocks
from gpt2.train.compiling import with_own_cache
from gpt2.train.config import TrainConfig
from gpt2.train.loss import Rows, fused_softmax, sample_rows
from gpt2.train.objective import Objective
from gpt2.train.optimizers import build_optimizers, set_rates
from gpt2.train.parallel import Processes
from gpt2.train.precision import Precision, can_compile, chunk_tokens, micro_batch_tokens
from gpt2.train.rounding import ROUND, rounded
from gpt2.train.scaling import LossScale

T = TypeVar("T")
_log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: its number, from 1.
        tokens: trained on since the run began, this step's included.
        batch_tokens: of this step.
        loss: mean over the batch in nats per token, before the update.
        grad_norm: Euclidean length of the whole gradient, before clipping.
        lr: AdamW's learning rate.
        skipped: loss or gradient was not finite, and nothing was updated.
        overflowed: perhaps only float16 overflowed; the loss scale halves from now on.
        seconds: that it took.
    """

    step: int
    tokens: int
    batch_tokens: int
    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    overflowed: bool = False
    seconds: float


class Learner:
    """A model and the optimizers that change it.

    Args:
        model: on its device, initialised.
        config: of the run.
        precision: of the run.
        frequency_V: share of each token in the corpus; needed if the loss runs over sampled rows.
        processes: that train together; by default this one alone.

    Attributes:
        sharing: "none", "ddp" or "fsdp": how processes hold the model.
        micro_tokens: of one forward and backward pass; halved if the device has no memory for it.
        loss_scale: the factor of gradients until they are complete.
    """

    def __init__(
        self,
        model: GPT,
        config: TrainConfig,
        precision: Precision,
        frequency_V: NDArray[np.float64] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.precision = precision
        self.processes = processes or Processes()
        self.micro_tokens = micro_batch_tokens(config.run, precision)
        self._frequency_V = frequency_V
        # One compiled block serves for all, in a fraction of the time that compiling the whole model takes.
        self._is_compiled = compiled = config.run.compile and can_compile(precision.device)
        if compiled and precision.device.type == "cpu" and precision.dtype == torch.bfloat16:
            _put_faster_parts(model)
        objective = Objective(
            model,
            blocks=[torch.compile(block, dynamic=False) for block in model.h] if compiled else None,
            softmax=fused_softmax() if compiled else None,
            chunk_tokens=chunk_tokens(config, precision),
            recompute=config.run.recompute,
            residual=torch.bfloat16 if config.run.residual == "bf16" and precision.dtype == torch.bfloat16 else None,
        )
        seq_tokens = max(length for _, length in config.schedule.sequence)
        self._attention = choose_attention(
            config.model, precision, sequences=max(1, self.micro_tokens // seq_tokens), seq_tokens=seq_tokens
        )
        round_to: Any = ROUND.get(config.rounding.form)
        self._round = torch.compile(round_to, dynamic=False) if round_to and compiled else round_to
        self.sharing = parallel.choose(config, self.processes, precision.device)
        self._objective = parallel.share(objective, list(model.h), self.sharing, precision.device)
        products = torch.bfloat16 if precision.dtype == torch.bfloat16 else None
        self.optimizers = build_optimizers(model, config.optim, products)  # of the shared parameters
        self._others_wait = False  # in a collective operation, for this process
        self.loss_scale = LossScale.of_float16() if precision.dtype == torch.float16 else LossScale()

    def step(
        self,
        inputs_BT: NDArray[np.int64],
        targets_BT: NDArray[np.int64],
        *,
        step: int,
        tokens: int,
        wanted_BT: NDArray[np.bool_] | None = None,
    ) -> StepReport:
        """Learn from one batch.

        Args:
            inputs_BT: token ids, of the whole batch in every process.
            targets_BT: the token that follows each.
            step: number of this step, from 1.
            tokens: trained on before it.
            wanted_BT: which targets count; None: all.

        Raises:
            TrainingError: the memory does not suffice for a micro-batch of one sequence.
        """
        began = time.perf_counter()
        progress = tokens / self.config.schedule.tokens
        # the rate at the step's middle: at its beginning, the first step of a warm-up would have rate 0
        middle = (tokens + 0.5 * inputs_BT.size) / self.config.schedule.tokens
        lr = set_rates(self.optimizers, self.config, progress=middle, step=step)
        rows = self._rows(targets_BT, progress, step)

        def compute() -> Tensor:
            with self.rounded(progress):
                return self._backward(inputs_BT, targets_BT, wanted_BT, rows, step)

        summed_loss = self._compiling(compute)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.loss_scale.factor != 1.0:
            for gradient in gradients:
                gradient.mul_(1.0 / self.loss_scale.factor)
        norm = nn.utils.get_total_norm(gradients)
        loss, grad_norm = torch.stack((summed_loss, whole(norm).to(summed_loss.dtype))).tolist()
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        overflowed = not finite and self.loss_scale.can_fall
        self.loss_scale.adjust(finite=finite)
        if finite:
            if limit := self.config.optim.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, limit, norm)
            for optimizer in self.optimizers:
                optimizer.step()
        done = (tokens + inputs_BT.size) / self.config.schedule.tokens
        if finite and self.config.optim.average_fraction and done > 1.0 - self.config.optim.average_fraction:
            average(self.optimizers)
        if done >= 1.0:
            take_average(self.optimizers)
        self.model.zero_grad(set_to_none=True)
        return StepReport(
            step=step,
            tokens=tokens + inputs_BT.size,
            batch_tokens=inputs_BT.size,
            loss=loss,
            grad_norm=grad_norm,
            lr=lr,
            skipped=not finite,
            overflowed=overflowed,
            seconds=time.perf_counter() - began,
        )

    def uses_all_rows(self, progress: float) -> bool:
        """Whether the loss at this point of the run covers the whole vocabulary."""
        return not self.config.loss.rows or progress >= 1.0 - self.config.loss.full_fraction

    def rounded(self, progress: float) -> AbstractContextManager[None]:
        """A context in which the weights are rounded as they will be stored, if this point of the run requires it."""
        rounding = self.config.rounding
        if self._round is None or progress < 1.0 - rounding.fraction:
            return nullcontext()
        kinds = partition(self.model.named_parameters())
        return rounded([*kinds["matrix"].values(), self.model.wte.weight], self._round)

    def rehearse(
        self, inputs_BT: NDArray[np.int64], targets_BT: NDArray[np.int64], wanted_BT: NDArray[np.bool_] | None = None
    ) -> None:
        """Compute a gradient and discard it, to see how long it takes and whether it fits the memory."""
        self._compiling(lambda: self._backward(inputs_BT, targets_BT, wanted_BT, None, 0))
        self.model.zero_grad(set_to_none=True)
        if self.precision.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def summed_loss(
        self, inputs_BT: NDArray[np.int64], targets_BT: NDArray[np.int64], wanted_BT: NDArray[np.bool_] | None = None
    ) -> float:
        """The loss over the whole vocabulary, summed over the wanted targets; nothing is learned."""
        device = self.precision.device
        wanted = None if wanted_BT is None else torch.from_numpy(wanted_BT).to(device)

        def compute() -> Tensor:
            with self.precision.autocast(), self._attention.preferred():
                return self._objective(_on(device, inputs_BT), _on(device, targets_BT), wanted, None, 1.0)

        loss = self._compiling(compute)
        parallel.let_go(self._objective, self.sharing)
        return float(loss)

    def _compiling(self, compute: Callable[[], T]) -> T:
        """Return `compute()`; if its first compilation fails, try again with a cache of our own."""
        if not self._is_compiled:
            return compute()
        self._others_wait = self.sharing == "fsdp"  # which communicates from the first block on
        return with_own_cache(
            compute,
            before_again=lambda: self.model.zero_grad(set_to_none=True),
            others_wait=lambda: self._others_wait,
        )

    def _backward(
        self,
        inputs_BT: NDArray[np.int64],
        targets_BT: NDArray[np.int64],
        wanted_BT: NDArray[np.bool_] | None,
        rows: Rows | None,
        step: int,
    ) -> Tensor:
        """Fill the gradients with those of the batch's mean loss, and return the loss.

        If the device runs out of memory, the micro-batch is halved and the whole batch begins again: the split does
        not change the gradient.
        """
        n_wanted = inputs_BT.size if wanted_BT is None else max(1, int(wanted_BT.sum()))
        while True:
            try:
                factor = self.loss_scale.factor
                return self._accumulate(inputs_BT, targets_BT, wanted_BT, rows, step, factor / n_wanted) / factor
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0][:300]
            self.model.zero_grad(set_to_none=True)
            if self.precision.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(inputs_BT.shape[1], reason)

    def _accumulate(
        self,
        inputs_BT: NDArray[np.int64],
        targets_BT: NDArray[np.int64],
        wanted_BT: NDArray[np.bool_] | None,
        rows: Rows | None,
        step: int,
        scale: float,
    ) -> Tensor:
        device, processes = self.precision.device, self.processes
        mine = np.arange(inputs_BT.shape[0])[processes.rows(inputs_BT.shape[0])]
        sequences = max(1, self.micro_tokens // inputs_BT.shape[1])
        n_micro = -(-processes.most_rows(inputs_BT.shape[0]) // sequences)  # the same in all processes
        loss = torch.zeros((), device=device, dtype=torch.promote_types(self.model.ln_f.weight.dtype, torch.float32))
        pieces = np.array_split(mine, range(sequences, n_micro * sequences, sequences))
        for i, piece in enumerate(pieces):
            is_spare = piece.size == 0  # others have one more: compute a sequence that does not count
            piece = mine[:1] if is_spare else piece
            if self.config.optim.dropout or self.config.lora.dropout:
                # dropout depends only on the place in the run, so there is no state to save
                torch.manual_seed(hash((self.config.run.seed, step, int(piece[0]))))
            inputs, targets = _on(device, inputs_BT[piece]), _on(device, targets_BT[piece])
            wanted = None if wanted_BT is None else torch.from_numpy(wanted_BT[piece]).to(device)
            if is_spare:
                wanted = torch.zeros_like(targets, dtype=torch.bool)
            is_last = i == len(pieces) - 1
            with parallel.accumulating(self._objective, self.sharing, last=is_last):
                with self.precision.autocast(), self._attention.preferred():
                    # processes' gradients are averaged, hence the factor
                    part = self._objective(inputs, targets, wanted, rows, scale * processes.world)
                self._others_wait = self._others_wait or (is_last and processes.world > 1)
                part.backward()
            loss += part.detach()
        return processes.sum(loss / processes.world)

    def _halve(self, seq_tokens: int, reason: str) -> None:
        sequences = max(1, self.micro_tokens // seq_tokens)
        if sequences == 1 or self.processes.world > 1:
            raise TrainingError(
                f"A step cannot be computed: micro-batches of {sequences * seq_tokens:,} tokens do not fit the memory "
                f"of {self.precision.device} ({reason}). "
                f"{'' if sequences == 1 else f'Set run.micro_batch_tokens={sequences * seq_tokens // 2}, or '}"
                f"{'S' if sequences == 1 else 's'}et run.recompute=true, shorten schedule.sequence, take a smaller "
                f"model, or train adapters (lora.rank=8)."
            )
        self.micro_tokens = sequences // 2 * seq_tokens
        _log.warning(
            "out of memory with micro-batches of %d tokens (%s): continuing with %d; the batch and its gradient stay "
            "the same. run.micro_batch_tokens=%d begins with that",
            sequences * seq_tokens,
            reason,
            self.micro_tokens,
            self.micro_tokens,
        )

    def _rows(self, targets_BT: NDArray[np.int64], progress: float, step: int) -> Rows | None:
        if self.uses_all_rows(progress):
            return None
        assert self._frequency_V is not None, "sampled rows need the tokens' frequencies"
        rng = np.random.default_rng([self.config.run.seed, step])  # so there is no state to save
        rows = sample_rows(targets_BT, self._frequency_V, self.config.loss.rows, rng)
        return rows.to(self.precision.device)


def _put_faster_parts(model: GPT) -> None:
    """Put in parts that, once compiled, are faster than PyTorch's own on a CPU with bf16 units."""
    for block in model.h:
        parts: Any = block
        parts.attn.attend = attend_in_blocks
        behind = parts.mlp.c_proj
        if type(behind) is nn.Linear and behind.weight.requires_grad:  # an adapter adds to its weight
            parts.mlp.activated_map = activated_map


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or PyTorch's allocator on a CPU, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _on(device: torch.device, ids: NDArray[np.int64]) -> Tensor:
    """Token ids on a device; the copy to a GPU is asynchronous."""
    tensor = torch.from_numpy(ids)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
