"""Queries and keys of like size, channel by channel, for the forms that round a head's query and key to 8 bits.

A head's key has one scale for all its channels. Where a few are tens of times the others, as in published GPT-2, these
are rounded to nothing. A score is a sum of query times key over the channels, so it stays the same when a channel's
query is multiplied by what its key is divided by. That is done to the weights which make them, before they are packed:
it costs nothing afterwards. By powers of two, so that no number of theirs is rounded by it; and only to channels which
stand out, so that other models are packed as they are.

Axes: I inputs, O outputs of the matrix that makes queries and keys; H heads, C channels of one.
"""

import numpy as np

from gpt2.backends.seam import Floats, Source

_STANDS_OUT = 2  # powers of two from the head's median channel
_MOST = 16


def query_key_scales(weights: Source, layer: int) -> Floats | None:
    """What to multiply the outputs of a layer's `attn.c_attn` by, [3D]; None where no channel stands out.

    How large a channel is follows from the weights: the norm before them makes inputs of gain g and offset b that are
    otherwise taken for independent.
    """
    D, H = weights.config.n_embd, weights.config.n_head
    part = f"h.{layer}."
    w_IO = weights.float32(part + "attn.c_attn.w")[:, : 2 * D]
    g_I, b_I = weights.float32(part + "ln_1.g"), weights.float32(part + "ln_1.b")
    with np.errstate(all="ignore"):  # weights that are not finite are found by what they compute
        steady_O = weights.float32(part + "attn.c_attn.b")[: 2 * D] + b_I @ w_IO
        size_O = np.sqrt(steady_O**2 + g_I**2 @ (w_IO * w_IO))
        query_HC, key_HC = size_O.reshape(2, H, D // H)
        usable_HC = (query_HC > 0) & (key_HC > 0) & np.isfinite(query_HC) & np.isfinite(key_HC)
        half_HC = np.where(usable_HC, 0.5 * np.log2(key_HC / query_HC), 0)  # shared out to both alike
    power_HC = np.clip(np.rint(half_HC - np.median(half_HC, axis=1, keepdims=True)), -_MOST, _MOST)
    power_HC[(np.abs(power_HC) < _STANDS_OUT) | ~usable_HC] = 0
    if not power_HC.any():
        return None
    powers = power_HC.ravel()
    return np.exp2(np.concatenate([powers, -powers, np.zeros(D)])).astype(np.float32)
