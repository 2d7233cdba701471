"""Where the keys and values of all slots lie, and where a batch stands among them.

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
    """Where a padded batch stands in the pool. M counts the tokens without the padding."""

    ids_BT: Tensor
    positions_BT: Tensor
    token_M: tuple[Tensor, Tensor]  # which of [B, T] is each token
    home_M: tuple[Tensor, Tensor]  # its row and position in the pool
    rows: Tensor | slice  # of the pool, one for each piece of work; a slice where they lie side by side
    S: int
    mask_B1TS: Tensor | None  # what a token attends to; None: all, or what came before if `causal`
    causal: bool


class Pool:
    """Keys and values of all slots in one tensor, [2, L, N, H, C, K], that doubles and halves with its use.

    Slots occupy its first rows without gaps, so that a batch of all of them is read where it lies.

    Args:
        config: the shape of the model.
        device: where it lies.
        dtype: of a number.
        least_capacity: positions of a row that holds anything.
        kept_bytes: so much is not given back while it is unused.
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
        """Close the gap with the last row, and give memory back when three quarters of it are unused."""
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
        """Let every row have place for this many tokens."""
        N, C = self.kv.shape[2], self.kv.shape[4]
        if C < S:
            in_use = 1 << (len(self._rows) - 1).bit_length()  # rows that are kept for others to come do not grow
            self._resize(min(N, in_use), min(self._most, max(S, 2 * C, self._least_capacity)))

    def row(self, slot: int) -> int:
        """Where the slot lies at present."""
        return self._rows[slot]

    def place(self, batch: list[Work]) -> Place:
        """Make room for the tokens of a batch and say where everything is."""
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
        """Put a batch's keys and values into the pool; return all that its slots now hold, twice [B, H, S, K]."""
        (b_M, t_M), (row_M, position_M) = place.token_M, place.home_M
        kv = self.kv[:, layer]  # [2, N, H, C, K]
        kv[0][row_M, :, position_M] = k_BHTK[b_M, :, t_M]
        kv[1][row_M, :, position_M] = v_BHTK[b_M, :, t_M]
        k_BHSK, v_BHSK = kv[:, place.rows, :, : place.S]
        return k_BHSK, v_BHSK

    @torch.inference_mode()
    def _resize(self, N: int, C: int) -> None:
        """Other numbers of rows and positions; new places are 0, since even what is masked must be finite."""
        old = self.kv
        self.moves += 1
        self.kv = torch.zeros((*old.shape[:2], N, old.shape[3], C, old.shape[5]), device=old.device, dtype=old.dtype)
        n, c = min(N, old.shape[2]), min(C, old.shape[4])
        self.kv[:, :, :n, :, :c] = old[:, :, :n, :, :c]

    def _send(self, values: NDArray[np.int64] | list[int]) -> Tensor:
        return torch.as_tensor(values, device=self._device)
