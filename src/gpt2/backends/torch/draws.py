"""Draws on the device: what `seam.Draw` asks for, of many rows at once, so that no logits leave it.

`generation.draws` and `generation.filters` define them. The noise has the same bits here; logarithms, exponentials and
sums may differ from NumPy's in the last ones, and so may a draw where two scores do. Penalties are not known here.

Axes: M rows, V vocabulary, K tokens that may be drawn, most likely first.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.backends.seam import Draw

Asked = tuple[Draw, int]  # what is asked of a row, and the key of its noise
N_SETTINGS = 5

_GAMMA, _MIX_1, _MIX_2 = (  # PyTorch's whole numbers have a sign, and wrap around alike
    word - (1 << 64) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def packed(asked_M: Sequence[Asked]) -> NDArray[np.int64]:
    """What is asked of rows as one array for the device, [N_SETTINGS, M]; fractions by their bits."""
    array_5M = np.empty((N_SETTINGS, len(asked_M)), np.int64)
    array_5M[0] = np.array([key for _, key in asked_M], np.uint64).view(np.int64)
    array_5M[1] = [draw.top_k for draw, _ in asked_M]
    fractions = array_5M.view(np.float64)
    fractions[2:] = np.array([(draw.temperature, draw.top_p, draw.min_p) for draw, _ in asked_M]).T
    return array_5M


class Settings:
    """What is asked of rows, on the device: `packed`, taken apart. At temperature 0 the likeliest is taken."""

    def __init__(self, packed_5M: Tensor) -> None:
        fractions_5M = packed_5M.view(torch.float64)
        self.keys_M = packed_5M[0]
        self.top_k_M1 = packed_5M[1, :, None]
        self.temperatures_M1 = fractions_5M[2, :, None].float()
        self.top_p_M1 = fractions_5M[3, :, None]
        self.min_p_M1 = fractions_5M[4, :, None]


def draw_rows(logits_MV: Tensor, asked_M: Sequence[Asked]) -> Tensor:
    """The tokens drawn, [M]; rows of which the same kind of draw is asked are drawn together."""
    alike: dict[Callable[[Tensor, Sequence[Asked]], Tensor], list[int]] = {}
    for m, (draw, _) in enumerate(asked_M):
        alike.setdefault(_kind(draw), []).append(m)
    if len(alike) == 1:
        return next(iter(alike))(logits_MV, asked_M)
    drawn_M = torch.empty(len(asked_M), dtype=torch.int64, device=logits_MV.device)
    for kind, members in alike.items():
        indices = torch.tensor(members, device=logits_MV.device)
        drawn_M[indices] = kind(logits_MV[indices], [asked_M[m] for m in members])
    return drawn_M


def _kind(draw: Draw) -> Callable[[Tensor, Sequence[Asked]], Tensor]:
    if draw.temperature == 0:
        return _likeliest
    if draw.top_k:
        return _of_best
    return _of_sorted if draw.top_p < 1 or draw.min_p > 0 else _of_all


def _likeliest(logits_MV: Tensor, asked_M: Sequence[Asked]) -> Tensor:
    return logits_MV.argmax(-1)  # of equal ones the first


def _of_all(logits_MV: Tensor, asked_M: Sequence[Asked]) -> Tensor:
    settings = _on_device(asked_M, logits_MV)
    ids_V = torch.arange(logits_MV.shape[1], device=logits_MV.device)
    return _scores(_cooled(logits_MV, settings), ids_V, settings).argmax(-1)


def _of_best(logits_MV: Tensor, asked_M: Sequence[Asked]) -> Tensor:
    most = max(draw.top_k for draw, _ in asked_M)
    return draw_of_best(logits_MV, _on_device(asked_M, logits_MV), most)


def _of_sorted(logits_MV: Tensor, asked_M: Sequence[Asked]) -> Tensor:
    return draw_of_sorted(logits_MV, _on_device(asked_M, logits_MV))


def draw_of_best(logits_MV: Tensor, settings: Settings, most: int) -> Tensor:
    """Draws with a top-k of at most `most`, and those of the likeliest: the tokens, [M]."""
    ids_MK = order(logits_MV).topk(min(most, logits_MV.shape[1])).indices
    values_MK = _cooled(logits_MV.log_softmax(-1).gather(1, ids_MK), settings)
    return _of_filtered(values_MK, ids_MK, settings)


def draw_of_sorted(logits_MV: Tensor, settings: Settings) -> Tensor:
    """Draws of any kind: the tokens, [M]."""
    values_MV, ids_MV = _cooled(logits_MV, settings).sort(dim=-1, descending=True, stable=True)
    return _of_filtered(values_MV, ids_MV, settings)


def _of_filtered(values_MK: Tensor, ids_MK: Tensor, settings: Settings) -> Tensor:
    """The draw from tokens that are sorted, most likely first, and thinned by top-k, then top-p, then min-p."""
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
    """Divided by the temperature, from the largest downwards; as they are at temperature 1, and at 0."""
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
    """To the right, as words without a sign."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _on_device(asked_M: Sequence[Asked], like: Tensor) -> Settings:
    return Settings(torch.from_numpy(packed(asked_M)).to(like.device))


def order(logits_MV: Tensor) -> Tensor:
    """Whole numbers in the order of the logits, and among equal logits the lower id first.

    The bits of a float, read as a whole number, already order those of one sign; `topk` alone leaves it open
    which of two equal logits comes first.
    """
    bits_MV = (logits_MV + 0.0).view(torch.int32).long()  # -0 becomes 0, which it equals
    ascending_MV = torch.where(bits_MV < 0, bits_MV ^ 0x7FFF_FFFF, bits_MV)
    V = logits_MV.shape[1]
    return (ascending_MV << 32) + torch.arange(V - 1, -1, -1, device=logits_MV.device)
