"""A run's device, dtype and micro-batch size: chosen once, with the reason reported."""

import logging
import os
import shutil
import sys
from dataclasses import dataclass

import torch

from gpt2 import machine
from gpt2.errors import BackendError
from gpt2.train.config import RunConfig, TrainConfig

_log = logging.getLogger("gpt2")

# Without one of these a CPU computes bf16 products element by element, hundreds of times slower than fp32 ones.
_FAST_BF16 = ("avx512-bf16", "amx-bf16", "neon-bf16")
_FAST_FP16_CAPABILITY = (7, 0)  # NVIDIA's Volta, the first with units for products in float16
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536, "mps": 8192}
_CHUNK_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 2048}


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """What was chosen.

    Attributes:
        device: of parameters and batches.
        dtype: of the matrix products; parameters and optimizer state are float32 (or the model's own dtype).
        reason: of the choice, for the user.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> torch.autocast:
        """A context in which the forward pass runs its products in `dtype`."""
        return torch.autocast(self.device.type, dtype=self.dtype if self.is_short else None, enabled=self.is_short)

    @property
    def is_short(self) -> bool:
        """Whether the products are in 16 bits."""
        return self.dtype in (torch.bfloat16, torch.float16)


def choose_precision(run: RunConfig, instruction_sets: tuple[str, ...] | None = None) -> Precision:
    """The device and the dtype for a run.

    Args:
        run: names them, or says `auto`.
        instruction_sets: the processor's; None: detect them.

    Raises:
        BackendError: the device is not here.
    """
    device = _device(run.device)
    if run.dtype != "auto":
        return Precision(device=device, dtype=_DTYPES[run.dtype], reason="as asked")
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        reason = "this GPU has bf16 units" if fast else "this GPU has no bf16 units"
        if not fast and torch.cuda.get_device_capability(device) >= _FAST_FP16_CAPABILITY:
            return Precision(device=device, dtype=torch.float16, reason=f"{reason} but fp16 units")
    elif device.type == "cpu":
        sets = machine.instruction_sets() if instruction_sets is None else instruction_sets
        found = [name for name in _FAST_BF16 if name in sets]
        fast = bool(found)
        reason = f"this processor has {found[-1]}" if found else f"this processor has none of {', '.join(_FAST_BF16)}"
    else:
        fast, reason = False, f"bf16 is not relied on with {device.type}"
    return Precision(device=device, dtype=torch.bfloat16 if fast else torch.float32, reason=reason)


def can_compile(device: torch.device) -> bool:
    """Whether PyTorch's compiler finds what it needs for the device; on a CPU that is a C++ compiler."""
    if device.type != "cpu":
        return True
    compiler = os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    if shutil.which(compiler) is not None:
        return True
    _log.warning(
        "nothing is compiled (run.compile), and steps take longer: there is no C++ compiler %r. Install one", compiler
    )
    return False


def micro_batch_tokens(run: RunConfig, precision: Precision) -> int:
    """Tokens of one forward and backward pass: as asked, or as suits the device."""
    return run.micro_batch_tokens or _MICRO_BATCH_TOKENS[precision.device.type]


def chunk_tokens(config: TrainConfig, precision: Precision) -> int:
    """The most tokens whose logits exist at one time: as asked, or as suits the device."""
    return config.loss.chunk_tokens or _CHUNK_TOKENS[precision.device.type]


def check_device(asked: str) -> None:
    """Refuse a name that is no device's; does not check whether that device is here.

    Raises:
        BackendError: no device has this name.
    """
    try:
        torch.device("cpu" if asked == "auto" else asked)
    except RuntimeError as error:
        raise BackendError(f"There is no device {asked!r}. Say auto, cpu, cuda or mps.") from error


def take_gpu(asked: str, place: int | None = None) -> bool:
    """If this process computes on a GPU, make that its current one; return whether it does.

    Args:
        asked: the device, as the run names it.
        place: of this process among those on its machine, which is the number of its GPU; None: it is alone.

    Raises:
        BackendError: the device is not here.
    """
    device = _device(asked)
    if device.type != "cuda":
        return False
    named = device.index if ":" in asked else place
    index = named if place is None else place
    if index is None:
        return True
    if index != named:
        raise BackendError(
            f"The device {asked!r} cannot be used: each process has a GPU of its own, this one has {index}. Say cuda."
        )
    if index >= (n_here := torch.cuda.device_count()):
        raise BackendError(
            f"The GPU {index} cannot be used: PyTorch sees {n_here} here, counted from 0. Name one of them, or start "
            f"as many processes on a machine as it has."
        )
    torch.cuda.set_device(index)
    return True


def _device(asked: str) -> torch.device:
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    check_device(asked)
    device = torch.device(asked)
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False):
        raise BackendError(f"The device {asked!r} cannot be used: PyTorch sees none here. Say cpu or auto.")
    return device
