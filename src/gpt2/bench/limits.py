"""What the machine allows at most: weights cannot be read, nor products made, faster than it does nothing else.

A decoded token reads every weight once, and the keys and values before it; a batch reads the weights once for all its
sequences, or is bound by its products; a prompt is bound by products. Attention's products are counted at the rate of
the weights' form, and everything between matrices as free: so these are limits, not estimates.
"""

import ctypes

from gpt2.backends import Backend
from gpt2.backends.native import NativeBackend
from gpt2.bench.workload import Workload
from gpt2.config import ModelConfig
from gpt2.native.interface import FORMS
from gpt2.native.library import Library


def limits(backend: Backend, workload: Workload) -> dict[str, float]:
    """Tokens per second at most, by figure of the workload; also the rates they follow from, measured here and now."""
    if not isinstance(backend, NativeBackend):
        return {}
    config, sizes = backend.config, workload.fitting(backend.config.n_positions)
    weights = backend.weights_bytes - 4 * config.n_positions * config.n_embd  # of the positions a token reads one row
    read_rate = _read_rate(weights, backend.threads)
    product_rate = _product_rate(backend.level, backend.weights, backend.threads)
    numbers = {"fp32": 4 * config.n_embd, "bf16": 2 * config.n_embd}  # else int8 with a scale a head
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
    """Multiply-adds of one token but for the head: matrices, scores and mixing of `context` positions."""
    matrices = (4 * config.n_embd + 2 * config.n_inner) * config.n_embd
    return config.n_layer * (matrices + 2 * context * config.n_embd)


def _read_rate(n_bytes: int, threads: int) -> float:
    call = Library.load().calls.gpt2_read_rate
    call.restype, call.argtypes = ctypes.c_double, [ctypes.c_int64, ctypes.c_int32]
    return float(call(n_bytes, threads))


def _product_rate(level: str, form: str, threads: int) -> float:
    call = Library.load().calls.gpt2_product_rate
    call.restype, call.argtypes = ctypes.c_double, [ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32]
    return float(call(level.encode(), FORMS.index(form), threads))
