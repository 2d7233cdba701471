"""The keys and values of all slots, and where a batch lies among them.

Axes: B pieces of work, T tokens of the longest, M tokens of all of them, S tokens in the longest slot, N slots in the
pool, C capacity of each, L layers, H heads, K width of a head.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.backends.seam import Work
from gpt2.config import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a padded batch lies in the pool. M counts tokens without padding."""

    ids_BT: Tensor
    positions_BT: Tensor
    token_M: tuple[Tensor, Tensor]  # each token's index in [B, T]
    home_M: tuple[Tensor, Tensor]  # its row and position in the pool
    rows: Tensor | slice  # of the pool, one for each piece of work; a slice if they are adjacent
    S: int
    mask_B1TS: Tensor | None  # what a token attends to; None: everything, or only earlier tokens if `causal`
    causal: bool


class Pool:
    """Keys and values of all slots in one tensor, [2, L, N, H, C, K], which doubles and halves as needed.

    Slots occupy its first rows without gaps, so a batch of all slots is read without a copy.

    Args:
        config: the shape of the model.
        device: of the tensor.
        dtype: of the tensor.
        least_capacity: the least positions of a row that is not empty.
        kept_bytes: a tensor of up to this size never shrinks.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        *,
        least_capacity: int = 64,
        kept_bytes: int = 0,
    ) -> None:
        self.lengths: dict[int, int] = {}  # slot -> tokens
        self._rows: dict[int, int] = {}  # slot -> row
        self._most = config.n_positions
        self._device = device
        self._least_capacity, self._kept_bytes = least_capacity, kept_bytes
        self.moves = 0  # how often `kv` has become another tensor
        shape = (2, config.n_layer, 0, config.n_head, 0, config.head_width)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)

    def add(self) -> int:
        """A new, empty slot."""
        slot = next(n for n in range(len(self._rows) + 1) if n not in self._rows)
        N, C = self.kv.shape[2], self.kv.shape[4]
        if len(self._rows) == N:
            self._resize(max(1, 2 * N), C)
        self._rows[slot], self.lengths[slot] = len(self._rows), 0
        return slot

    @torch.inference_mode()
    def fork(self, slot: int) -> int:
        """A new slot with the same tokens."""
        new, length = self.add(), self.lengths[slot]
        self.kv[:, :, self._rows[new], :, :length] = self.kv[:, :, self._rows[slot], :, :length]
        self.lengths[new] = length
        return new

    @torch.inference_mode()
    def free(self, slot: int) -> None:
        """Close the gap with the last row, and shrink when three quarters of the rows or positions are unused."""
        row = self._rows.pop(slot)
        del self.lengths[slot]
        last = len(self._rows)
        for other, its_row in self._rows.items():
            if its_row == last:
                self.kv[:, :, row] = self.kv[:, :, last]
                self._rows[other] = row
        N, C = self.kv.shape[2], self.kv.shape[4]
        longest = max(self.lengths.values(), default=0)
        few, short = 4 * last <= N, 4 * longest <= C
        if (few or short) and self.kv.nbytes > self._kept_bytes:
            self._resize(2 * last if few else N, 2 * longest if short else C)

    def make_room(self, S: int) -> None:
        """Make every row hold at least this many tokens."""
        N, C = self.kv.shape[2], self.kv.shape[4]
        if C < S:
            in_use = 1 << (len(self._rows) - 1).bit_length()  # drop spare rows rather than grow them
            self._resize(min(N, in_use), min(self._most, max(S, 2 * C, self._least_capacity)))

    def row(self, slot: int) -> int:
        """The slot's current row."""
        return self._rows[slot]

    def place(self, batch: list[Work]) -> Place:
        """Make room for the tokens of a batch and return where everything lies."""
        rows = [self._rows[piece.slot] for piece in batch]
        past_B = np.array([self.lengths[piece.slot] for piece in batch])
        count_B = np.array([len(piece.tokens) for piece in batch])
        S, T = int((past_B + count_B).max()), int(count_B.max())
        self.make_room(S)

        ids_BT = np.zeros((len(batch), T), np.int64)
        for b, piece in enumerate(batch):
            ids_BT[b, : len(piece.tokens)] = piece.tokens
        positions_BT = np.minimum(past_B[:, None] + np.arange(T), self._most - 1)
        b_M, t_M = np.nonzero(np.arange(T) < count_B[:, None])
        home_M = (np.array(rows)[b_M], positions_BT[b_M, t_M])
        positions = self._send(positions_BT)
        causal, alike = not past_B.any(), T == 1 and (past_B == past_B[0]).all()
        mask_BTS = None if causal or alike else torch.arange(S, device=self._device) <= positions[..., None]
        return Place(
            ids_BT=self._send(ids_BT),
            positions_BT=positions,
            token_M=(self._send(b_M), self._send(t_M)),
            home_M=(self._send(home_M[0]), self._send(home_M[1])),
            rows=slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else self._send(rows),
            S=S,
            mask_B1TS=None if mask_BTS is None else mask_BTS[:, None],
            causal=causal,
        )

    def keep(self, layer: int, place: Place, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store a batch's keys and values; return all that its slots now hold, each [B, H, S, K]."""
        (b_M, t_M), (row_M, position_M) = place.token_M, place.home_M
        kv = self.kv[:, layer]  # [2, N, H, C, K]
        kv[0][row_M, :, position_M] = k_BHTK[b_M, :, t_M]
        kv[1][row_M, :, position_M] = v_BHTK[b_M, :, t_M]
        k_BHSK, v_BHSK = kv[:, place.rows, :, : place.S]
        return k_BHSK, v_BHSK

    @torch.inference_mode()
    def _resize(self, N: int, C: int) -> None:
        """Change the numbers of rows and positions; new entries are 0, since even masked values must be finite."""
        old = self.kv
        self.moves += 1
        self.kv = torch.zeros((*old.shape[:2], N, old.shape[3], C, old.shape[5]), device=old.device, dtype=old.dtype)
        n, c = min(N, old.shape[2]), min(C, old.shape[4])
        self.kv[:, :, :n, :, :c] = old[:, :, :n, :, :c]

    def _send(self, values: NDArray[np.int64] | list[int]) -> Tensor:
        return torch.as_tensor(values, device=self._device)
