"""One more token for each of many texts on an NVIDIA GPU, as one CUDA graph.

PyTorch starts some 200 kernels for such a step, and Python takes longer to start one than the GPU to run it. Here a
layer is five kernels (`kernels.py`), and a graph, recorded once for each number of texts, starts them all at once:

    ids, slots, lengths, draws ──copied──> [8, B] ──graph──> tokens drawn [B] ──copied──> Python
                                                        or ──> rows after the last norm [B, D]

Axes: B texts, rounded up, D embedding, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gpt2.backends.torch import draws, kernels
from gpt2.backends.torch.draws import N_SETTINGS, Asked, Settings
from gpt2.backends.torch.pool import Pool
from gpt2.config import ModelConfig

_MOST_TOP_K = 64  # so many best tokens are always found, whatever the rows ask


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recording:
    """A step that can be done again: what is read, what is written, and how it is begun."""

    inputs_8B: Tensor
    output: Tensor
    replay: Callable[[], object]


class Decoder:
    """Decodes in the slots of a pool, whose lengths are for the caller to change.

    Args:
        config: the shape of the model.
        arrays: its weights, matrices as [out, in], on the device.
        head: from rows after the last norm to logits.
        pool: where the slots lie; what is recorded holds for the tensor that it has at present.
    """

    def __init__(
        self, config: ModelConfig, arrays: Mapping[str, Tensor], head: Callable[[Tensor], Tensor], pool: Pool
    ) -> None:
        self._config = config
        self._arrays = arrays
        self._head = head
        self._pool = pool
        self._kv = pool.kv
        self._recordings: dict[tuple[int, Callable[[Tensor], Tensor]], _Recording] = {}

    def rows(self, slots: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Append a token to each slot: [B, D], after the last layer norm, a row for each slot, until the next step."""
        return self._step(self._rows, slots, ids, ())[: len(slots)]

    def draw(self, slots: Sequence[int], ids: Sequence[int], asked: Sequence[Asked]) -> list[int] | None:
        """Append a token to each slot and draw the next one; None: the logits are not finite."""
        *drawn, is_finite = self._step(self._how(asked), slots, ids, asked).tolist()
        return drawn[: len(slots)] if is_finite else None

    def _how(self, asked: Sequence[Asked]) -> Callable[[Tensor], Tensor]:
        """The quickest kind of step that knows these draws."""
        thinned = [draw for draw, _ in asked if draw.temperature and (draw.top_k or draw.top_p < 1 or draw.min_p > 0)]
        if not thinned:
            return self._drawn
        best_are_few = all(draw.temperature == 0 or 0 < draw.top_k <= _MOST_TOP_K for draw, _ in asked)
        return self._drawn_of_best if best_are_few else self._drawn_of_sorted

    def _step(
        self, how: Callable[[Tensor], Tensor], slots: Sequence[int], ids: Sequence[int], asked: Sequence[Asked]
    ) -> Tensor:
        lengths = [self._pool.lengths[slot] for slot in slots]
        self._pool.make_room(max(lengths) + 1)
        if self._kv is not self._pool.kv:
            self._recordings.clear()
            self._kv = self._pool.kv
        n, B = len(slots), _rounded_up(len(slots))
        recording = self._recordings.get((B, how))
        if recording is None:
            recording = self._recordings[B, how] = self._record(B, how)
        inputs_8B = np.zeros((3 + N_SETTINGS, B), np.int64)
        inputs_8B[:3, :n] = ids, [self._pool.row(slot) for slot in slots], lengths
        inputs_8B[2, n:] = -1
        if asked:
            inputs_8B[3:, :n] = draws.packed(asked)
        recording.inputs_8B.copy_(torch.from_numpy(inputs_8B))
        recording.replay()
        return recording.output

    def _record(self, B: int, how: Callable[[Tensor], Tensor]) -> _Recording:
        inputs_8B = torch.zeros(3 + N_SETTINGS, B, dtype=torch.int64, device=self._kv.device)
        inputs_8B[2] = -1
        output, replay = _recorded(lambda: how(inputs_8B), self._kv.device)
        return _Recording(inputs_8B=inputs_8B, output=output, replay=replay)

    def _drawn(self, inputs_8B: Tensor) -> Tensor:
        """[B + 1]: the tokens drawn from all, and whether the logits are finite."""
        settings, logits_BV = Settings(inputs_8B[3:]), self._logits(inputs_8B)
        drawn_B, scores_B = kernels.draw(logits_BV, settings.keys_M, settings.temperatures_M1[:, 0])
        return torch.cat([drawn_B, scores_B.isfinite().all()[None].long()])

    def _drawn_of_best(self, inputs_8B: Tensor) -> Tensor:
        """The same where each has a top-k, or takes the likeliest."""
        logits_BV = self._logits(inputs_8B)
        drawn_B = draws.draw_of_best(logits_BV, Settings(inputs_8B[3:]), _MOST_TOP_K)
        return torch.cat([drawn_B, logits_BV.isfinite().all()[None].long()])

    def _drawn_of_sorted(self, inputs_8B: Tensor) -> Tensor:
        """The same for draws of any kind."""
        logits_BV = self._logits(inputs_8B)
        drawn_B = draws.draw_of_sorted(logits_BV, Settings(inputs_8B[3:]))
        return torch.cat([drawn_B, logits_BV.isfinite().all()[None].long()])

    def _logits(self, inputs_8B: Tensor) -> Tensor:
        return self._head(self._rows(inputs_8B))

    def _rows(self, inputs_8B: Tensor) -> Tensor:
        """[B, D]: the rows after the last norm, of ids, rows of the pool and lengths before the step."""
        arrays, config = self._arrays, self._config
        ids_B, rows_B, lengths_B = inputs_8B[:3]
        places_B = lengths_B.clamp(min=0)
        x_BD = functional.embedding(ids_B, arrays["wte"]).float() + functional.embedding(places_B, arrays["wpe"])
        for layer in range(config.n_layer):
            name = f"h.{layer}"
            qkv_B3D = self._linear(f"{name}.attn.c_attn", x_BD, norm=f"{name}.ln_1")
            mixed_BD = kernels.attend(qkv_B3D, self._kv[0, layer], self._kv[1, layer], rows_B, lengths_B)
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


def probe(device: torch.device) -> None:
    """Compile a kernel and record it: raises whatever keeps a `Decoder` from working on this device."""
    logits_MV, keys_M = torch.zeros(1, 2, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    _, replay = _recorded(lambda: kernels.draw(logits_MV, keys_M, keys_M.float())[0], device)
    replay()


def _recorded(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], object]]:
    """What `run` returns, and what does the same again in the same place."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run()  # compiles the kernels, which cannot be done while it is recorded
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        output = run()
    return output, graph.replay


def _rounded_up(n_texts: int) -> int:
    """To a power of two up to 16, from there to a multiple of 16: each number of texts is a recording."""
    return 1 << (n_texts - 1).bit_length() if n_texts <= 16 else -(-n_texts // 16) * 16
