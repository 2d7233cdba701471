"""Decodes one token for each of many texts on an NVIDIA GPU, as one CUDA graph.

PyTorch launches some 200 kernels for such a step, and launching one from Python takes longer than running it. Here a
layer is five kernels (`kernels.py`), and a CUDA graph launches them all at once. A graph is recorded once for each
number of texts and kind of draw:

    ids, slots, lengths, draws ──copied──> [8, B] ──graph──> tokens drawn [B] ──copied──> Python
                                                        or ──> rows after the last norm [B, D]

Axes: B texts, rounded up, D embedding, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gpt2.backends.torch import kernels
from gpt2.backends.torch.draws import Asked, Kind, Settings, draw_rows, kind_of, packed
from gpt2.backends.torch.pool import Pool
from gpt2.config import ModelConfig

Answer = Kind | Literal["rows"]  # how to draw the next tokens; or return the rows themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recording:
    """A step that can be replayed: its input, its output, and how to launch it."""

    inputs_8B: Tensor
    output: Tensor
    replay: Callable[[], object]


class Decoder:
    """Decodes in the slots of a pool; the caller updates their lengths.

    Args:
        config: the shape of the model.
        arrays: its weights, matrices as [out, in], on the device.
        head: from rows after the last norm to logits.
        pool: where the slots lie; recordings are valid until it moves.
    """

    def __init__(
        self, config: ModelConfig, arrays: Mapping[str, Tensor], head: Callable[[Tensor], Tensor], pool: Pool
    ) -> None:
        self._config = config
        self._arrays = arrays
        self._head = head
        self._pool = pool
        self._moves = pool.moves
        self._recordings: dict[tuple[int, Answer], _Recording] = {}
        self._stream: torch.cuda.Stream | None = None  # these two are shared by all recordings; only one runs at a time
        self._memory: Any = None

    def probe(self) -> None:
        """Compile the kernels for one, a few and many texts, and record one step; raises whatever goes wrong."""
        for B in (2, 17):
            self._run(_inputs(B, self._pool.kv.device), "all")
        self._record(1, "all").replay()
        torch.cuda.synchronize(self._pool.kv.device)

    def rows(self, slots: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Append a token to each slot: rows after the last layer norm, [B, D], valid until the next step."""
        return self._step("rows", slots, ids, ())[: len(slots)]

    def draw(self, slots: Sequence[int], ids: Sequence[int], asked: Sequence[Asked]) -> list[int] | None:
        """Append a token to each slot and draw the next one; None if the logits are not finite."""
        *drawn, is_finite = self._step(kind_of(asked), slots, ids, asked).tolist()
        return drawn[: len(slots)] if is_finite else None

    def _step(self, answer: Answer, slots: Sequence[int], ids: Sequence[int], asked: Sequence[Asked]) -> Tensor:
        lengths = [self._pool.lengths[slot] for slot in slots]
        self._pool.make_room(max(lengths) + 1)
        if self._moves != self._pool.moves:
            self._recordings.clear()
            self._moves = self._pool.moves
        n, B = len(slots), _rounded_up(len(slots))
        recording = self._recordings.get((B, answer))
        if recording is None:
            recording = self._recordings[B, answer] = self._record(B, answer)
        inputs_8B = np.zeros((8, B), np.int64)
        inputs_8B[:3, :n] = ids, [self._pool.row(slot) for slot in slots], lengths
        inputs_8B[2, n:] = -1
        if asked:
            inputs_8B[3:, :n] = packed(asked)
        recording.inputs_8B.copy_(torch.from_numpy(inputs_8B))
        recording.replay()
        return recording.output

    def _record(self, B: int, answer: Answer) -> _Recording:
        inputs_8B = _inputs(B, self._pool.kv.device)
        current = torch.cuda.current_stream(inputs_8B.device)
        if self._stream is None:
            self._stream, self._memory = torch.cuda.Stream(inputs_8B.device), torch.cuda.graph_pool_handle()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._run(inputs_8B, answer)  # compiles the kernels, which is impossible while recording
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            output = self._run(inputs_8B, answer)
        return _Recording(inputs_8B=inputs_8B, output=output, replay=graph.replay)

    def _run(self, inputs_8B: Tensor, answer: Answer) -> Tensor:
        """[B, D]: the rows after the last norm; or [B + 1]: the tokens drawn, and whether the logits are finite.

        Args:
            inputs_8B: ids, rows of the pool, lengths before the step (negative: no text), `draws.packed`.
            answer: which of the two.
        """
        rows_BD = self._network(inputs_8B[:3])
        if answer == "rows":
            return rows_BD
        logits_BV, settings = self._head(rows_BD), Settings(inputs_8B[3:])
        if answer == "all":
            drawn_B, scores_B = kernels.draw(logits_BV, settings.keys_M, settings.temperatures_M1[:, 0])
            finite_B = scores_B.isfinite()
        else:
            drawn_B, finite_B = draw_rows(logits_BV, settings, answer), logits_BV.isfinite().all(-1)
        is_finite = (finite_B | (inputs_8B[2] < 0)).all()
        return torch.cat([drawn_B, is_finite[None].long()])

    def _network(self, inputs_3B: Tensor) -> Tensor:
        arrays, config, kv = self._arrays, self._config, self._pool.kv
        ids_B, rows_B, lengths_B = inputs_3B
        places_B = lengths_B.clamp(min=0)
        x_BD = functional.embedding(ids_B, arrays["wte"]).float() + functional.embedding(places_B, arrays["wpe"])
        for layer in range(config.n_layer):
            name = f"h.{layer}"
            qkv_B3D = self._linear(f"{name}.attn.c_attn", x_BD, norm=f"{name}.ln_1")
            mixed_BD = kernels.attend(qkv_B3D, kv[0, layer], kv[1, layer], rows_B, lengths_B)
            self._linear(f"{name}.attn.c_proj", mixed_BD, added_to=x_BD)
            h_BF = self._linear(f"{name}.mlp.c_fc", x_BD, norm=f"{name}.ln_2", gelu=True)
            self._linear(f"{name}.mlp.c_proj", h_BF, added_to=x_BD)
        g_D, b_D = arrays["ln_f.g"], arrays["ln_f.b"]
        return functional.layer_norm(x_BD, g_D.shape, g_D, b_D, config.layer_norm_epsilon)

    def _linear(
        self, name: str, x: Tensor, *, norm: str = "", gelu: bool = False, added_to: Tensor | None = None
    ) -> Tensor:
        arrays = self._arrays
        before = None
        if norm:
            epsilon = self._config.layer_norm_epsilon
            before = kernels.Norm(gain_D=arrays[f"{norm}.g"], shift_D=arrays[f"{norm}.b"], epsilon=epsilon)
        weight, bias = arrays[f"{name}.w"], arrays[f"{name}.b"]
        return kernels.linear(x, weight, bias, norm=before, gelu=gelu, added_to_MG=added_to)


def _inputs(B: int, device: torch.device) -> Tensor:
    """The inputs of a step without texts."""
    inputs_8B = torch.zeros(8, B, dtype=torch.int64, device=device)
    inputs_8B[2] = -1
    return inputs_8B


def _rounded_up(n_texts: int) -> int:
    """To a power of two up to 16, then to a multiple of 16, which limits the number of recordings."""
    return 1 << (n_texts - 1).bit_length() if n_texts <= 16 else -(-n_texts // 16) * 16
