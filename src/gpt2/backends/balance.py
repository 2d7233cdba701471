"""Balances queries and keys channel by channel, for the forms that round them to 8 bits.

All channels of a head's key share one scale. In published GPT-2 a few channels are tens of times larger than the
rest, which then round to zero. A score sums query times key over the channels, so multiplying a channel's query and
dividing its key by the same factor leaves it unchanged. The factors go into the weights before packing, so they cost
nothing at run time. They are powers of two, which round no number, and apply only to channels that stand out, so
other models are packed unchanged.

Axes: I inputs, O outputs of the matrix that makes queries and keys; H heads, C channels of one head.
"""

import numpy as np

from gpt2.backends.seam import Floats, Source

_STANDS_OUT = 2  # powers of two from the head's median channel
_MOST = 16


def query_key_scales(weights: Source, layer: int) -> Floats | None:
    """Factors for the outputs of a layer's `attn.c_attn`, [3D]; None if no channel stands out.

    A channel's size is estimated from the weights: its inputs come from a layer norm with gain g and offset b, and
    are assumed independent otherwise.
    """
    D, H = weights.config.n_embd, weights.config.n_head
    part = f"h.{layer}."
    w_IO = weights.float32(part + "attn.c_attn.w")[:, : 2 * D]
    g_I, b_I = weights.float32(part + "ln_1.g"), weights.float32(part + "ln_1.b")
    with np.errstate(all="ignore"):  # non-finite weights are detected later, in the logits
        steady_O = weights.float32(part + "attn.c_attn.b")[: 2 * D] + b_I @ w_IO
        size_O = np.sqrt(steady_O**2 + g_I**2 @ (w_IO * w_IO))
        query_HC, key_HC = size_O.reshape(2, H, D // H)
        usable_HC = (query_HC > 0) & (key_HC > 0) & np.isfinite(query_HC) & np.isfinite(key_HC)
        half_HC = np.where(usable_HC, 0.5 * np.log2(key_HC / query_HC), 0)  # half to the query, half to the key
    power_HC = np.clip(np.rint(half_HC - np.median(half_HC, axis=1, keepdims=True)), -_MOST, _MOST)
    power_HC[(np.abs(power_HC) < _STANDS_OUT) | ~usable_HC] = 0
    if not power_HC.any():
        return None
    powers = power_HC.ravel()
    return np.exp2(np.concatenate([powers, -powers, np.zeros(D)])).astype(np.float32)
