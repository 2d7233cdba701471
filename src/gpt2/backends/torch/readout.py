"""Turns the last hidden rows into the wanted results, on the device.

Axes: M wanted rows of all pieces of work, R those of one, V vocabulary, D embedding, K best tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.backends.seam import Result, Work
from gpt2.backends.torch.draws import Asked, Settings, draw_rows, kind_of, order, packed
from gpt2.errors import BackendError

Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
DAMAGED = "the logits are not finite numbers: the weights are damaged. Fetch or convert them anew."


def read_out(
    batch: Sequence[Work],
    into: Sequence[Result],
    rows_MD: Tensor,
    head: Callable[[Tensor], Tensor],
    score: Score,
    *,
    rows_at_once: int,
) -> None:
    """Answer all wants except traces; pieces that want the same kinds of result are answered together.

    Args:
        batch: the work that was computed.
        into: where the results go.
        rows_MD: all its wanted rows, after the last norm.
        head: from [M, D] to logits [M, V].
        score: `score`, or a faster equivalent.
        rows_at_once: at most this many rows of logits exist at a time.

    Raises:
        BackendError: a logit is not a finite number, so the weights are damaged.
    """
    alike: dict[tuple[bool, int, bool, bool], list[int]] = {}
    for b, piece in enumerate(batch):
        want = piece.want
        if want.rows and (want.logits or want.best or want.targets is not None or want.draw is not None):
            kind = (want.logits, want.best, want.targets is not None, want.draw is not None)
            alike.setdefault(kind, []).append(b)
    rows_R = [piece.want.rows for piece in batch]
    for (logits, best, _, _), members in alike.items():
        ends = np.cumsum([rows_R[b] for b in members])
        if ends[-1] == len(rows_MD):
            hidden_MD = rows_MD
        else:
            rows_of = rows_MD.split(rows_R)
            hidden_MD = torch.cat([rows_of[b] for b in members])
        targets_M = [target for b in members for target in batch[b].want.targets or ()]
        asked_M = [(draw, key) for b in members if (draw := batch[b].want.draw) for key in draw.keys]
        parts: list[dict[str, NDArray[Any]]] = []
        for start in range(0, len(hidden_MD), rows_at_once):
            rows = slice(start, start + rows_at_once)
            of_rows = _Wanted(logits, best, targets_M[rows], asked_M[rows])
            parts.append(_answer(head(hidden_MD[rows]), of_rows, score))
        for answer in parts[0]:
            whole = np.concatenate([part[answer] for part in parts])
            for b, own in zip(members, np.split(whole, ends[:-1]), strict=True):
                setattr(into[b], answer, own.tolist() if answer == "drawn_R" else own)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is wanted of some rows; empty targets or draws: not wanted."""

    logits: bool
    best: int
    targets_M: Sequence[int]
    draws_M: Sequence[Asked]


def _answer(logits_MV: Tensor, asked: _Wanted, score: Score) -> dict[str, NDArray[Any]]:
    """The wanted results of some rows of logits, by the fields of `Result`, on the CPU."""
    # launch everything on the device before waiting for anything
    waited: dict[str, Tensor] = {}
    if asked.logits:
        waited["logits_RV"] = logits_MV
    if asked.draws_M:
        settings = Settings(torch.from_numpy(packed(asked.draws_M)).to(logits_MV.device))
        waited["drawn_R"] = draw_rows(logits_MV, settings, kind_of(asked.draws_M))
    if asked.best:
        ids_MK = order(logits_MV).topk(min(asked.best, logits_MV.shape[1])).indices
        waited["best_ids_RK"] = ids_MK.int()
        waited["best_logprobs_RK"] = logits_MV.log_softmax(-1).gather(1, ids_MK)
    if asked.targets_M:
        targets_M = torch.tensor(asked.targets_M, device=logits_MV.device)
        logprobs_M, ranks_M, entropies_M = score(logits_MV, targets_M)
        waited |= {"target_logprobs_R": logprobs_M, "target_ranks_R": ranks_M, "entropies_R": entropies_M}
        is_finite = entropies_M.isfinite().all()
    else:
        is_finite = logits_MV.isfinite().all()
    arrays = {name: value.cpu().numpy() for name, value in waited.items()}
    if not bool(is_finite):
        raise BackendError(DAMAGED)
    return arrays


def score(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per row: the log-probability and the rank of its target, and the row's entropy in nats.

    The entropy is NaN if a logit is not finite.
    """
    target_M1 = targets_M[:, None]
    level_M1 = logits_MV.gather(1, target_M1)
    lower_MV = torch.arange(logits_MV.shape[1], device=logits_MV.device) < target_M1
    before_MV = (logits_MV > level_M1) | ((logits_MV == level_M1) & lower_MV)
    logprobs_MV = logits_MV.log_softmax(-1)
    logprobs_M = logprobs_MV.gather(1, target_M1)[:, 0]
    return logprobs_M, before_MV.sum(-1).int(), -(logprobs_MV.exp() * logprobs_MV).sum(-1)
