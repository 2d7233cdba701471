"""Draws on the device, for many rows at once, so that no logits leave it; see `seam.Draw`.

`generation.draws` and `generation.filters` define them. The noise has the same bits here; logarithms, exponentials and
sums may differ from NumPy's in the last bits, and so may a draw between two nearly equal scores. Penalties are not
supported.

Axes: M rows, V vocabulary, K tokens that may be drawn, most likely first.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.backends.seam import Draw

Asked = tuple[Draw, int]  # a row's draw, and the key of its noise
Kind = Literal["all", "best", "sorted"]  # the candidates: all tokens, the best few, or all tokens sorted

_MOST_TOP_K = 64  # this many best tokens are found, whatever the rows ask for
_LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)
_GAMMA, _MIX_1, _MIX_2 = (  # PyTorch's integers are signed, but wrap around the same way
    word - (1 << 64) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def kind_of(asked: Sequence[Asked]) -> Kind:
    """The fastest kind that can do all these draws; every kind can take the most likely token."""
    drawn = [draw for draw, _ in asked if draw.temperature > 0]
    if not any(draw.top_k or draw.top_p < 1 or draw.min_p > 0 for draw in drawn):
        return "all"
    return "best" if all(0 < draw.top_k <= _MOST_TOP_K for draw in drawn) else "sorted"


def packed(asked_M: Sequence[Asked]) -> NDArray[np.int64]:
    """The draws as one array for the device, [5, M]: keys, top-k, temperature, top-p, min-p.

    Fractions are stored as their bits.
    """
    array_5M = np.empty((5, len(asked_M)), np.int64)
    array_5M[0] = np.array([key for _, key in asked_M], np.uint64).view(np.int64)
    array_5M[1] = [draw.top_k for draw, _ in asked_M]
    fractions_5M = array_5M.view(np.float64)
    fractions_5M[2:] = np.array([(draw.temperature, draw.top_p, draw.min_p) for draw, _ in asked_M]).T
    drawn_M = fractions_5M[2] > 0
    fractions_5M[2, drawn_M] = np.maximum(fractions_5M[2, drawn_M], _LEAST_TEMPERATURE)  # float32 0 would be greedy
    return array_5M


class Settings:
    """The rows' draws on the device: `packed`, unpacked. Temperature 0 takes the most likely token."""

    def __init__(self, packed_5M: Tensor) -> None:
        fractions_5M = packed_5M.view(torch.float64)
        self.keys_M = packed_5M[0]
        self.top_k_M1 = packed_5M[1, :, None]
        self.temperatures_M1 = fractions_5M[2, :, None].float()
        self.top_p_M1 = fractions_5M[3, :, None]
        self.min_p_M1 = fractions_5M[4, :, None]


def draw_rows(logits_MV: Tensor, settings: Settings, kind: Kind) -> Tensor:
    """The tokens drawn, [M]."""
    if kind == "all":
        ids_V = torch.arange(logits_MV.shape[1], device=logits_MV.device)
        values_MV = _cooled(logits_MV, settings)
        return torch.where(settings.temperatures_M1 == 0, values_MV, _scores(values_MV, ids_V, settings)).argmax(-1)
    if kind == "best":
        ids_MK = order(logits_MV).topk(min(_MOST_TOP_K, logits_MV.shape[1])).indices
        values_MK = logits_MV.log_softmax(-1).gather(1, ids_MK)
    else:
        logits_MK, ids_MK = logits_MV.sort(dim=-1, descending=True, stable=True)
        values_MK = torch.where(settings.top_k_M1 > 0, logits_MK.log_softmax(-1), logits_MK)
    return _of_filtered(_cooled(values_MK, settings), ids_MK, settings)


def _of_filtered(values_MK: Tensor, ids_MK: Tensor, settings: Settings) -> Tensor:
    """Draw from tokens sorted most likely first, after top-k, then top-p, then min-p."""
    top_k_M1, top_p_M1 = settings.top_k_M1, settings.top_p_M1
    top_k_M1 = torch.where(settings.temperatures_M1 == 0, 1, torch.where(top_k_M1 == 0, values_MK.shape[1], top_k_M1))
    likeliest_M1 = values_MK[:, :1]
    ranks_K = torch.arange(values_MK.shape[1], device=values_MK.device)
    kept_MK = ranks_K < top_k_M1
    weights_MK = torch.where(kept_MK, (values_MK - likeliest_M1).exp(), 0).double()
    before_MK = weights_MK.cumsum(-1) - weights_MK
    enough_M1 = top_p_M1 * weights_MK.sum(-1, keepdim=True)
    kept_MK &= (before_MK < enough_M1) | (top_p_M1 >= 1) | (ranks_K == 0)
    kept_MK &= values_MK >= likeliest_M1 + settings.min_p_M1.log().float()
    winners_M = _scores(values_MK, ids_MK, settings).where(kept_MK, -torch.inf).argmax(-1)
    return ids_MK.gather(1, winners_M[:, None])[:, 0]


def _cooled(values_MK: Tensor, settings: Settings) -> Tensor:
    """Values minus the largest, divided by the temperature; unchanged at temperatures 1 and 0."""
    temperatures_M1 = settings.temperatures_M1
    cooled_MK = (values_MK - values_MK.amax(-1, keepdim=True)) / temperatures_M1
    return torch.where((temperatures_M1 == 1) | (temperatures_M1 == 0), values_MK, cooled_MK)


def _scores(values_MK: Tensor, ids: Tensor, settings: Settings) -> Tensor:
    """Values plus Gumbel noise, in float64."""
    state_MK = (ids + 1) * _GAMMA + settings.keys_M[:, None]
    state_MK = (state_MK ^ _shifted(state_MK, 30)) * _MIX_1
    state_MK = (state_MK ^ _shifted(state_MK, 27)) * _MIX_2
    bits_MK = _shifted(state_MK ^ _shifted(state_MK, 31), 12)
    uniform_MK = (bits_MK.double() + 0.5) * 2.0**-52
    return values_MK.double() - (-uniform_MK.log()).log()


def _shifted(words: Tensor, by: int) -> Tensor:
    """Shift right, as unsigned words."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def order(logits_MV: Tensor) -> Tensor:
    """Integers in the order of the logits; of equal logits the lower id comes first.

    `topk` alone does not define which of two equal logits comes first. The bits of floats of one sign, read as
    integers, are already in order.
    """
    bits_MV = (logits_MV + 0.0).view(torch.int32).long()  # -0 becomes 0
    ascending_MV = torch.where(bits_MV < 0, bits_MV ^ 0x7FFF_FFFF, bits_MV)
    V = logits_MV.shape[1]
    return (ascending_MV << 32) + torch.arange(V - 1, -1, -1, device=logits_MV.device)
