import pytest
import torch

from gpt2.errors import BackendError
from gpt2.train.config import RunConfig
from gpt2.train.precision import choose_precision

CPU = RunConfig(device="cpu")


@pytest.mark.parametrize("fast", ["avx512-bf16", "amx-bf16", "neon-bf16"])
def test_a_cpu_with_bf16_units_uses_them(fast: str) -> None:
    chosen = choose_precision(CPU, ("avx2", fast))
    assert chosen.dtype == torch.bfloat16
    assert fast in chosen.reason


@pytest.mark.parametrize("sets", [(), ("avx2",), ("avx2", "avx512", "avx512-vnni")])
def test_a_cpu_without_computes_in_float32_and_says_why(sets: tuple[str, ...]) -> None:
    chosen = choose_precision(CPU, sets)
    assert chosen.dtype == torch.float32
    assert "none of avx512-bf16" in chosen.reason


def test_what_is_asked_for_is_taken() -> None:
    assert choose_precision(RunConfig(device="cpu", dtype="bf16"), ()).dtype == torch.bfloat16
    assert choose_precision(RunConfig(device="cpu", dtype="fp32"), ("amx-bf16",)).dtype == torch.float32


def test_autocast_follows_the_dtype() -> None:
    x = torch.ones(2, 2)
    with choose_precision(RunConfig(device="cpu", dtype="bf16"), ()).autocast():
        assert (x @ x).dtype == torch.bfloat16
    with choose_precision(CPU, ()).autocast():
        assert (x @ x).dtype == torch.float32


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(BackendError, match="There is no device 'gpu'"):
        choose_precision(RunConfig(device="gpu"))
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="PyTorch sees none here"):
            choose_precision(RunConfig(device="cuda"))
