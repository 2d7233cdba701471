"""A tensor of ggml's block types as a stored array, expanded to float32 part by part, on demand.

So opening and rewriting a file of any size takes the memory of one part, and only parts in use are expanded.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint import weights
from gpt2.checkpoint.forms import Floats
from gpt2.checkpoint.gguf_blocks import expand_blocks
from gpt2.checkpoint.gguf_file import TYPES
from gpt2.checkpoint.weights import MadeArray, StoredArray


class ExpandingArray(MadeArray):
    """Rows of blocks, or their transpose, as an F32 array.

    Args:
        blocks_RNb: the mapped bytes: rows, blocks of a row, bytes of a block.
        kind: their type.
        first: where the array begins: an index of values within the rows if `is_turned`, else of rows.
        last: where it ends, likewise.
        is_turned: whether the rows are the array's columns.
    """

    __slots__ = ("_blocks_RNb", "_first", "_is_turned", "_kind", "_last")

    def __init__(self, blocks_RNb: NDArray[np.uint8], kind: str, first: int, last: int, *, is_turned: bool) -> None:
        super().__init__(
            dtype="F32", _blocks_RNb=blocks_RNb, _kind=kind, _first=first, _last=last, _is_turned=is_turned
        )

    @property
    def _width(self) -> int:
        return self._blocks_RNb.shape[1] * TYPES[self._kind].block_values

    @property
    def data(self) -> Floats:  # pyright: ignore[reportIncompatibleVariableOverride] - made anew each time it is read
        """The values, expanded."""
        if not self._is_turned:
            octets = self._blocks_RNb[self._first : self._last]
            return self._expanded(octets).reshape(-1, self._width)
        step = TYPES[self._kind].block_values
        begin = self._first // step
        values = self._expanded(self._blocks_RNb[:, begin : -(-self._last // step)]).reshape(len(self._blocks_RNb), -1)
        return values[:, self._first - begin * step : self._last - begin * step].T

    def _expanded(self, octets: NDArray[np.uint8]) -> Floats:
        return expand_blocks(np.ascontiguousarray(octets).reshape(-1, octets.shape[-1]), self._kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the expanded array."""
        length = self._last - self._first
        return (length, len(self._blocks_RNb)) if self._is_turned else (length, self._width)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self._blocks_RNb.nbytes

    def rows(self, begin: int, end: int) -> "ExpandingArray":
        """The part from `begin` to `end` of the first axis, not yet expanded."""
        last = min(self._last, self._first + end)
        first = min(last, self._first + begin)
        return ExpandingArray(self._blocks_RNb, self._kind, first, last, is_turned=self._is_turned)

    def transposed(self) -> "ExpandingArray":
        """The matrix with its axes exchanged, not yet expanded."""
        blocks = self._blocks_RNb
        assert self.shape in ((len(blocks), self._width), (self._width, len(blocks))), "a part is not turned"
        length = len(blocks) if self._is_turned else self._width
        return ExpandingArray(blocks, self._kind, 0, length, is_turned=not self._is_turned)

    def blocks(self) -> Iterator[StoredArray]:
        """The whole in expanded pieces of a few megabytes, whole blocks each."""
        step = max(1, weights.BLOCK_VALUES // self.shape[1])
        if self._is_turned:
            whole = TYPES[self._kind].block_values
            step = max(1, step // whole) * whole
        for begin in range(0, self.shape[0], step):
            part = self.rows(begin, begin + step)
            yield StoredArray(data=part.data, dtype="F32")
        self.release()

    def release(self) -> None:
        """Let the system forget the mapped pages behind the blocks."""
        raw: NDArray[Any] = self._blocks_RNb
        StoredArray(data=raw, dtype="U8").release()
