"""One more token for each of many texts on an NVIDIA GPU, as one CUDA graph.

PyTorch starts some 200 kernels for such a step, and Python takes longer to start one than the GPU to run it. Here a
layer is five kernels (`kernels.py`), and a graph, recorded once for each number of texts, starts them all at once.

    ids, slots, lengths ──copied──> [3, B] ──graph──> rows after the last norm [B, D]

Axes: B texts, rounded up, D embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gpt2.backends.torch import kernels
from gpt2.backends.torch.pool import Pool
from gpt2.config import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recording:
    """A step that can be done again: what is read, what is written, and how it is begun."""

    inputs_3B: Tensor
    rows_BD: Tensor
    replay: Callable[[], None]


class Decoder:
    """Decodes in the slots of a pool.

    Args:
        config: the shape of the model.
        arrays: its weights, matrices as [out, in], on the device.
        pool: where the slots lie; what is recorded holds for the tensor that it has at present.
    """

    def __init__(self, config: ModelConfig, arrays: Mapping[str, Tensor], pool: Pool) -> None:
        self._config = config
        self._arrays = arrays
        self._pool = pool
        self._kv = pool.kv
        self._recordings: dict[int, _Recording] = {}

    def step(self, slots: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Append a token to each slot; its lengths are for the caller to change.

        Returns:
            [B, D]: after the last layer norm, a row for each slot, until the next step.
        """
        lengths = [self._pool.lengths[slot] for slot in slots]
        self._pool.make_room(max(lengths) + 1)
        if self._kv is not self._pool.kv:
            self._recordings.clear()
            self._kv = self._pool.kv
        B = _rounded_up(len(slots))
        recording = self._recordings.get(B)
        if recording is None:
            recording = self._recordings[B] = self._record(B)
        none = B - len(slots)
        rows = [self._pool.row(slot) for slot in slots]
        inputs = [[*ids, *[0] * none], [*rows, *[0] * none], [*lengths, *[-1] * none]]
        recording.inputs_3B.copy_(torch.tensor(inputs))
        recording.replay()
        return recording.rows_BD[: len(slots)]

    def _record(self, B: int) -> _Recording:
        inputs_3B = torch.zeros(3, B, dtype=torch.int64, device=self._kv.device)
        inputs_3B[2] = -1
        stream = torch.cuda.Stream(self._kv.device)
        stream.wait_stream(torch.cuda.current_stream(self._kv.device))
        with torch.cuda.stream(stream):
            self._network(inputs_3B)  # compiles the kernels, which a recording cannot
        torch.cuda.current_stream(self._kv.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            rows_BD = self._network(inputs_3B)
        return _Recording(inputs_3B=inputs_3B, rows_BD=rows_BD, replay=graph.replay)

    def _network(self, inputs_3B: Tensor) -> Tensor:
        """The rows after the last norm, from ids, rows of the pool and lengths before the step."""
        arrays, config = self._arrays, self._config
        ids_B, rows_B, lengths_B = inputs_3B
        x_BD = arrays["wte"][ids_B] + arrays["wpe"][lengths_B.clamp(min=0)]
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


def _rounded_up(n_texts: int) -> int:
    """To a power of two up to 16, from there to a multiple of 16: each number of texts is a recording."""
    return 1 << (n_texts - 1).bit_length() if n_texts <= 16 else -(-n_texts // 16) * 16
