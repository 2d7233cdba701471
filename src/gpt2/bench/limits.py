"""The machine's upper limits (a roofline), from its peak rates of reading memory and of multiplying.

Decoding a token reads every weight once, and the keys and values before it; a batch reads the weights once for all its
sequences, or is bound by its products; a prompt is bound by products. Attention's products are counted at the rate of
the weights' form, and everything between matrices as free: so these are limits, not estimates.
"""

import ctypes
from collections.abc import Callable

from gpt2.backends import Backend
from gpt2.backends.native import NativeBackend
from gpt2.bench.workload import Workload
from gpt2.config import ModelConfig
from gpt2.native.interface import FORMS
from gpt2.native.library import Library


def limits(backend: Backend, workload: Workload) -> dict[str, float]:
    """The most tokens per second, by figure of the workload, and the rates behind them, measured now."""
    config, sizes = backend.config, workload.fitting(backend.config.n_positions)
    if isinstance(backend, NativeBackend):
        weights = backend.weights_bytes - 4 * config.n_positions * config.n_embd  # a token reads one row of `wpe`
        read_rate = _read_rate(weights, backend.threads)
        product_rate = _product_rate(backend.level, backend.weights, backend.threads)
    elif backend.device.startswith("cuda"):
        n_weights = config.n_layer * _matrices(config) + config.vocab_size * config.n_embd
        weights = n_weights * (4 if backend.weights == "fp32" else 2)
        read_rate, product_rate = _device_rates(backend.device, backend.weights)
    else:
        return {}
    numbers = {"fp32": 4 * config.n_embd, "bf16": 2 * config.n_embd, "fp16": 2 * config.n_embd}  # else int8, scaled
    cached = 2 * config.n_layer * numbers.get(backend.weights, config.n_embd + 4 * config.n_head)  # bytes of a position

    def decode(context: float, batch: int = 1) -> float:
        reading = (weights + batch * context * cached) / read_rate
        multiplying = batch * (_products(config, context) + config.vocab_size * config.n_embd) / product_rate
        return batch / max(reading, multiplying)

    context = sizes.prompt_tokens + sizes.decode_tokens / 2
    return {
        "decode": decode(context),
        "prefill": product_rate / _products(config, sizes.prefill_tokens / 2),
        "batch": decode(context, sizes.batch),
        **{f"decode_after_{length}": decode(length + sizes.context_tokens / 2) for length in sizes.contexts},
        "read_bytes_per_second": read_rate,
        "multiply_adds_per_second": product_rate,
    }


def _products(config: ModelConfig, context: float) -> float:
    """Multiply-adds of one token without the head: matrices, and attention over `context` positions."""
    return config.n_layer * (_matrices(config) + 2 * context * config.n_embd)


def _matrices(config: ModelConfig) -> int:
    """The number of weights in a layer's matrices."""
    return (4 * config.n_embd + 2 * config.n_inner) * config.n_embd


def _read_rate(n_bytes: int, threads: int) -> float:
    call = Library.load().calls.gpt2_read_rate
    call.restype, call.argtypes = ctypes.c_double, [ctypes.c_int64, ctypes.c_int32]
    return float(call(n_bytes, threads))


def _product_rate(level: str, form: str, threads: int) -> float:
    call = Library.load().calls.gpt2_product_rate
    call.restype, call.argtypes = ctypes.c_double, [ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32]
    return float(call(level.encode(), FORMS.index(form), threads))


def _device_rates(device: str, form: str) -> tuple[float, float]:
    """Bytes read a second, by summing a gigabyte, and multiply-adds a second, by 8,192 x 8,192 matrices."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[form]
    matrix = torch.randn(8192, 8192, device=device, dtype=dtype)
    numbers = torch.randn(1 << 28, device=device)

    def seconds(run: Callable[[], object]) -> float:
        taken: list[float] = []
        for _ in range(5):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            taken.append(begin.elapsed_time(end) / 1e3)
        return min(taken)

    return numbers.nbytes / seconds(numbers.sum), len(matrix) ** 3 / seconds(lambda: matrix @ matrix)
