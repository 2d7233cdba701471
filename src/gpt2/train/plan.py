"""What a run will be, said before it starts: parameters, tokens, memory, device and dtype with the reason, threads."""

import time
from dataclasses import dataclass

import torch

from gpt2 import machine
from gpt2.config import ModelConfig
from gpt2.model import flops
from gpt2.train.config import TrainConfig
from gpt2.train.precision import Precision

_TRIALS = 10  # the best of these: other work on the machine only ever makes one slower


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The facts of a run before its first step.

    Attributes:
        parameters: trained.
        tokens: of the whole run.
        steps: of the whole run.
        memory_bytes: estimated, at the most.
        device: and what is computed there.
        threads: on a CPU.
        resumed_step: where the run goes on; 0 for a new one.
    """

    parameters: int
    tokens: int
    steps: int
    memory_bytes: int
    device: str
    threads: int
    resumed_step: int

    def lines(self) -> list[str]:
        """For people."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return [
            f"{self.parameters:,} parameters, {self.tokens:,} tokens in {self.steps:,} steps",
            f"{self.device}, {threads}, about {self.memory_bytes / 1e9:.1f} GB of memory",
            f"going on from step {self.resumed_step:,}" if self.resumed_step else "a new run",
        ]


def flops_per_token(model: ModelConfig, *, seq_tokens: int, rows: int) -> float:
    """Operations of forward and backward a token, with the `rows` of the head that the loss runs over."""
    skipped = 6.0 * (model.vocab_size - rows) * model.n_embd
    return flops.training_flops_per_token(model, seq_tokens, causal=False) - skipped


def memory_estimate_bytes(config: TrainConfig, micro_tokens: int, chunk: int) -> int:
    """Weights, gradient, optimizer, and what a micro-batch keeps for its backward pass, in float32.

    Args:
        config: of the run.
        micro_tokens: of one forward and backward pass.
        chunk: the most tokens whose logits exist at one time.
    """
    model = config.model
    n_parameters = flops.parameters(model)
    kept_a_token = model.n_layer * (10 * model.n_embd + 3 * model.n_inner)
    rows = config.loss.rows or model.vocab_size
    logits = min(chunk, micro_tokens) * model.vocab_size * 2
    head = 3 * rows * model.n_embd
    return 4 * (4 * n_parameters + micro_tokens * kept_a_token + logits + head) + 400_000_000


def measured_peak_flops(precision: Precision) -> float | None:
    """Operations a second at best: from the table for a GPU, measured with one large product on a CPU, else None."""
    if precision.device.type == "cuda":
        return machine.device_peaks(torch.cuda.get_device_name(precision.device))
    if precision.device.type != "cpu":
        return None
    n = 768
    a = torch.ones(n, n, dtype=precision.dtype)
    return 2.0 * n**3 / min(_timed_product(a) for _ in range(_TRIALS))


def _timed_product(a: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - began
