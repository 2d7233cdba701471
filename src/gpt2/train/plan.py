"""The plan that a run reports before it starts: parameters, tokens, memory, device and dtype with reasons, threads."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt2 import machine
from gpt2.checkpoint import map_names
from gpt2.config import ModelConfig
from gpt2.errors import TrainingError
from gpt2.model import flops
from gpt2.train.config import TrainConfig
from gpt2.train.precision import Precision, chunk_tokens, micro_batch_tokens

# The best of so many trials of a large product counts, since other work on the machine only makes them slower. There
# are fewer if the product is slow, as in float16 on a CPU.
_TRIALS, _TRIALS_SECONDS = 10, 0.5
_PROCESS_BYTES = 900_000_000  # Python with PyTorch, its compiler, and the engine for samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The facts of a run before its first step.

    Attributes:
        parameters: trained.
        tokens: of the whole run.
        steps: of the whole run.
        memory_bytes: estimated peak.
        device: and the dtype of its products.
        threads: on a CPU.
        resumed_step: where the run resumes; 0 for a new one.
        seconds: estimated for the rest of the run, by timing part of a batch; None: not timed.
    """

    parameters: int
    tokens: int
    steps: int
    memory_bytes: int
    device: str
    threads: int
    resumed_step: int
    seconds: float | None = None

    def lines(self) -> list[str]:
        """For people."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return [
            f"{self.parameters:,} parameters, {self.tokens:,} tokens in {self.steps:,} step{'s' * (self.steps != 1)}",
            f"{self.device}, {threads}, about {self.memory_bytes / 1e9:.1f} GB of memory",
            (f"resuming from step {self.resumed_step:,}" if self.resumed_step else "a new run")
            + ("" if self.seconds is None else f", at most about {spoken(self.seconds)} from here"),
        ]


def spoken(seconds: float) -> str:
    """A duration for people: to the second below two minutes, else to the minute."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{round(seconds)} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def flops_per_token(model: ModelConfig, *, seq_tokens: int, rows: int) -> float:
    """Floating-point operations a token, forward and backward, if the loss runs over `rows` rows of the head."""
    skipped = 6.0 * (model.vocab_size - rows) * model.n_embd
    return flops.training_flops_per_token(model, seq_tokens, causal=False) - skipped


def memory_estimate_bytes(config: TrainConfig, micro_tokens: int, chunk: int) -> int:
    """Memory of the process, weights, gradient, optimizer, and a micro-batch's activations, in float32.

    Args:
        config: of the run.
        micro_tokens: of one forward and backward pass, which takes at least one sequence.
        chunk: the most tokens whose logits exist at one time.
    """
    model = config.model
    longest = max(length for _, length in config.schedule.sequence)
    micro_tokens = max(longest, min(micro_tokens, max(tokens for _, tokens in config.schedule.batches)))
    n_parameters = model.parameters
    n_learned = lora_parameters(config) if config.lora.rank else n_parameters
    kept_a_token = model.n_layer * (10 * model.n_embd + 3 * model.n_inner)
    if config.run.recompute:  # each block's input, and all activations of one block
        kept_a_token = model.n_layer * model.n_embd + kept_a_token // model.n_layer
    rows = config.loss.rows or model.vocab_size
    logits = min(chunk, micro_tokens) * model.vocab_size * 2
    head = (1 if config.lora.rank else 3) * rows * model.n_embd
    return 4 * (n_parameters + 3 * n_learned + micro_tokens * kept_a_token + logits + head) + _PROCESS_BYTES


def fit_memory(config: TrainConfig, precision: Precision, say: Callable[[str], None]) -> TrainConfig:
    """The same run in micro-batches that fit a CPU's free memory; the batch stays the same.

    On a GPU an allocation fails, and the micro-batch is then halved; a system out of memory may kill the process.

    Raises:
        TrainingError: not even one sequence fits, or the requested micro-batch does not.
    """
    there_bytes = machine.available_memory_bytes()
    if precision.device.type != "cpu" or not there_bytes:
        return config
    seq_tokens = max(length for _, length in config.schedule.sequence)
    largest = max(tokens for _, tokens in config.schedule.batches)
    first = max(seq_tokens, min(micro_batch_tokens(config.run, precision), largest) // seq_tokens * seq_tokens)

    def needed_bytes(tokens: int) -> int:
        return memory_estimate_bytes(config, tokens, chunk_tokens(config, precision))

    fitting = first
    while needed_bytes(fitting) > there_bytes and fitting > seq_tokens:
        fitting = max(seq_tokens, fitting // 2 // seq_tokens * seq_tokens)
    if needed_bytes(fitting) > there_bytes:
        advice = (
            "Try --lora, a shorter --context, --set run.recompute=true, or a smaller --model."
            if config.start.model
            else "Set run.recompute=true, shorten schedule.sequence, or take a smaller model."
        )
        raise TrainingError(
            f"The memory does not suffice: about {needed_bytes(fitting) / 1e9:.1f} GB are needed, and "
            f"{there_bytes / 1e9:.1f} GB are free. {advice}"
        )
    if fitting == first:
        return config
    if config.run.micro_batch_tokens:
        raise TrainingError(
            f"Micro-batches of {first:,} tokens do not fit: about {needed_bytes(first) / 1e9:.1f} GB are needed, and "
            f"{there_bytes / 1e9:.1f} GB are free. Set run.micro_batch_tokens={fitting}, or leave it out: the batch "
            f"stays the same."
        )
    say(
        f"memory is short: micro-batches of {fitting:,} tokens instead of {first:,}; "
        f"the batch stays the same, its sums come in another order."
    )
    return dataclasses.replace(config, run=dataclasses.replace(config.run, micro_batch_tokens=fitting))


def check_room(config: TrainConfig, folder: Path) -> None:
    """Check that the run's state can be saved at all, before hours are spent on it.

    Raises:
        TrainingError: the disk has no room for the weights and one array of the optimizer.
    """
    n_learned = lora_parameters(config) if config.lora.rank else config.model.parameters
    least_bytes, disk = 2 * 4 * n_learned, shutil.disk_usage(folder)
    if disk.total and disk.free < least_bytes:  # some file systems do not report their size
        raise TrainingError(
            f"The run could not be saved: its state takes at least {least_bytes / 1e6:,.1f} MB, and "
            f"{disk.free / 1e6:,.1f} MB are free in {folder}. Make room, or choose a folder on another disk (--out)."
        )


def lora_parameters(config: TrainConfig) -> int:
    """The number of adapter parameters: for each map its inputs plus outputs, times the rank."""
    model = config.model
    width = {
        "c_attn": 4 * model.n_embd,
        "attn.c_proj": 2 * model.n_embd,
        "c_fc": model.n_embd + model.n_inner,
        "mlp.c_proj": model.n_embd + model.n_inner,
    }
    names = map_names(model, config.lora.targets)
    return config.lora.rank * sum(next(size for end, size in width.items() if name.endswith(end)) for name in names)


def measured_peak_flops(precision: Precision) -> float | None:
    """Peak operations a second: from the table for a GPU, measured with one large product on a CPU, else None."""
    if precision.device.type == "cuda":
        return machine.device_peaks(torch.cuda.get_device_name(precision.device))
    if precision.device.type != "cpu":
        return None
    n = 768
    a = torch.ones(n, n, dtype=precision.dtype)
    seconds: list[float] = []
    while len(seconds) < _TRIALS and sum(seconds) < _TRIALS_SECONDS:
        seconds.append(_timed_product(a))
    return 2.0 * n**3 / min(seconds)


def _timed_product(a: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - began
