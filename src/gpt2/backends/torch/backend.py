"""The PyTorch backend: any device PyTorch knows, in fp32, bf16 or fp16.

Pieces of work of similar length run as one batch, padded at the end; so does a decode step over many slots. In
bf16 and fp16 only the matrix products and the cache are narrow: the residual stream, the layer norms and the
logits stay in float32.

Axes: B pieces of work, T tokens of the longest, M wanted rows of all of them, S tokens in the longest slot,
N slots in the pool, C capacity of each, L layers, H heads, K width of a head, V vocabulary, D embedding.
"""

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2.backends.seam import CLOSED, Draw, Result, Source, Want, Work, check, undrawn
from gpt2.backends.torch.pool import Place, Pool
from gpt2.backends.torch.readout import DAMAGED, Score, read_out, score
from gpt2.checkpoint.names import shapes
from gpt2.config import ModelConfig
from gpt2.errors import BackendError

if TYPE_CHECKING:
    from gpt2.backends.torch.decoding import Decoder

log = logging.getLogger("gpt2")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOGITS_AT_ONCE = 1 << 22  # 16 MB of float32; 16 times as many for the scoring kernel, which needs no extra memory
# without cuDNN's attention, which spends 60 ms planning for each new text length
_UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_TOKENS_AT_ONCE = 8192  # of a padded batch
_ONE_AT_A_TIME = threading.Lock()  # `sdpa_kernel` is a process-wide setting
_KEPT_SHARE = 16  # 1/16 of GPU memory stays with the cache: a recording is valid only while the cache does not move


class TorchBackend:
    """PyTorch behind the seam; see `seam.Backend` for what its methods promise.

    Args:
        weights: copied to the device.
        device: "cpu", "cuda", "cuda:1", "mps".
        form: "fp32", "bf16" or "fp16"; "auto": on CUDA bf16 if the device computes it fast, else fp16; fp32 elsewhere.
        threads: CPU threads. This changes PyTorch's setting for the whole process.

    Raises:
        BackendError: the device is missing, or cannot compute in this form.
    """

    def __init__(self, weights: Source, *, device: str = "cpu", form: str = "auto", threads: int | None = None) -> None:
        self._device = _find(device)
        self._dtype = _DTYPES[_choose_form(form, self._device)]
        self.name = "torch"
        self.device = str(self._device)
        self.weights = next(form for form, dtype in _DTYPES.items() if dtype == self._dtype)
        self.config: ModelConfig = weights.config
        self.intervenes = True
        if threads is not None and self._device.type == "cpu":
            torch.set_num_threads(threads)
        self.reason = f"PyTorch {torch.__version__}"
        if self._device.type == "cpu":
            threads = torch.get_num_threads()
            self.reason += f" on {threads} thread{'s' if threads > 1 else ''}"

        self._arrays: dict[str, Tensor] = {}
        for name in shapes(self.config):
            array = torch.tensor(weights.float32(name))  # a copy: files are mapped read-only
            if name.endswith(".w"):
                array = array.T.contiguous()  # [out, in]: 7 times as fast on a CPU in bf16
            narrow = ".c_" in name or (name == "wte" and self._device.type == "cuda")  # see `_logits`
            if name == "wte" and self._device.type == "cuda":
                # cuBLAS's fast kernels need aligned rows of logits
                array = functional.pad(array, (0, 0, 0, -len(array) % 64))
            self._arrays[name] = array.to(self._device, self._dtype if narrow else torch.float32)
        self._pool = self._new_pool()
        self._decoder: Decoder | None = None
        self._score: Score = score
        self._draws = self._device.type == "cuda"  # NumPy is faster on a CPU, and MPS has no float64
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._take_own_kernels()

    def _take_own_kernels(self) -> None:
        try:
            from gpt2.backends.torch import decoding, kernels

            arrays, vocab_size = self._arrays, self.config.vocab_size
            decoder = decoding.Decoder(
                self.config, arrays, lambda rows_MD: _logits(rows_MD, arrays, vocab_size), self._pool
            )
            decoder.probe()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            why = "Triton is not installed" if isinstance(error, ImportError) else str(error)
            log.warning("decoding will take many times as long, since its own kernels cannot be compiled: %s", why)
            self.reason += ", without kernels of its own"
            return
        self._decoder, self._score = decoder, kernels.score
        self.reason += ", kernels of its own"

    def new(self) -> int:
        """A new, empty slot."""
        return self._open_pool.add()

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return self._open_pool.lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens from `length` on."""
        lengths = self._open_pool.lengths
        assert 0 <= length <= lengths[slot], "a slot can only be cut shorter"
        lengths[slot] = length

    def fork(self, slot: int) -> int:
        """A new slot that holds the same tokens."""
        return self._open_pool.fork(slot)

    def free(self, slot: int) -> None:
        """Give the slot back."""
        if not self._arrays:  # closing freed all slots
            return
        self._pool.free(slot)

    def bytes(self) -> int:
        """Memory that the slots hold at present."""
        return self._pool.kv.nbytes

    def slot_bytes(self, tokens: int) -> int:
        """The most that a slot takes, whatever its tokens: all rows are as long as the longest, and rows double."""
        config = self.config
        return 2 * 2 * config.n_layer * config.n_embd * config.n_positions * self._dtype.itemsize

    def close(self) -> None:
        """Release everything; the backend cannot be used afterwards."""
        self._arrays.clear()
        self._decoder = None
        self._pool = self._new_pool()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def step(self, work: Sequence[Work]) -> list[Result]:
        """Append every piece's tokens to its slot and return the results each wanted, in order."""
        check(self.config, self.length, work)
        work = undrawn(work, only_penalised=self._draws)
        results = [Result() for _ in work]
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            for group in self._group(work):
                batch = [work[index] for index in group]
                into = [results[index] for index in group]
                if not self._decode(batch, into):
                    self._finish(batch, into, self._forward(batch, into))
        return results

    def _new_pool(self) -> Pool:
        if self._device.type != "cuda":
            return Pool(self.config, self._device, self._dtype)
        kept_bytes = torch.cuda.get_device_properties(self._device).total_memory // _KEPT_SHARE
        return Pool(self.config, self._device, self._dtype, least_capacity=256, kept_bytes=kept_bytes)

    @property
    def _open_pool(self) -> Pool:
        if not self._arrays:
            raise BackendError(CLOSED)
        return self._pool

    def _group(self, work: Sequence[Work]) -> list[list[int]]:
        """Split work into batches of limited size, less than half of it padding."""
        by_length: dict[int, list[list[int]]] = {}
        for index in sorted(range(len(work)), key=lambda index: self._pool.row(work[index].slot)):
            doublings = (len(work[index].tokens) - 1).bit_length()  # 1, 2, 3-4, 5-8, ...
            groups = by_length.setdefault(doublings, [[]])
            if len(groups[-1]) << doublings >= _TOKENS_AT_ONCE:
                groups.append([])
            groups[-1].append(index)
        return [group for groups in by_length.values() for group in groups]

    def _decode(self, batch: list[Work], into: list[Result]) -> bool:
        """Run a batch on the decoder; False if the decoder cannot."""
        if self._decoder is None or any(len(p.tokens) > 1 or p.patches or p.want.trace for p in batch):
            return False
        slots, ids = [piece.slot for piece in batch], [piece.tokens[0] for piece in batch]
        asked = [(draw, draw.keys[0]) for piece in batch if (draw := _only_drawn(piece.want))]
        if len(asked) < len(batch):
            rows_BD = self._decoder.rows(slots, ids)
            wanted = [b for b, piece in enumerate(batch) if piece.want.rows]
            self._finish(batch, into, rows_BD if len(wanted) == len(batch) else rows_BD[wanted])
            return True
        drawn_B = self._decoder.draw(slots, ids, asked)
        if drawn_B is None:
            raise BackendError(DAMAGED)
        for piece, result, drawn in zip(batch, into, drawn_B, strict=True):
            self._pool.lengths[piece.slot] += 1
            result.drawn_R = [drawn]
        return True

    def _finish(self, batch: list[Work], into: list[Result], rows_MD: Tensor) -> None:
        """Record the new slot lengths and read out the wanted results."""
        for piece in batch:
            self._pool.lengths[piece.slot] += len(piece.tokens)
        only_scored = self._score is not score and all(_only_scored(piece.want) for piece in batch)
        rows_at_once = max(1, _LOGITS_AT_ONCE * (16 if only_scored else 1) // self.config.vocab_size)
        read_out(batch, into, rows_MD, self._head, self._score, rows_at_once=rows_at_once)

    def _head(self, rows_MD: Tensor) -> Tensor:
        return _logits(rows_MD, self._arrays, self.config.vocab_size)

    def _forward(self, batch: list[Work], into: list[Result]) -> Tensor:
        """Run a batch, fill its slots and traces, and return its wanted rows after the last norm."""
        place = self._pool.place(batch)
        if self._device.type != "cuda":
            return self._network(batch, into, place)
        with _ONE_AT_A_TIME, sdpa_kernel(_UNPLANNED):
            return self._network(batch, into, place)

    def _network(self, batch: list[Work], into: list[Result], place: Place) -> Tensor:
        arrays, config = self._arrays, self.config
        x_BTD = arrays["wte"][place.ids_BT].float() + arrays["wpe"][place.positions_BT]
        self._at_depth(0, x_BTD, batch, into)
        for layer in range(config.n_layer):
            name = f"h.{layer}"
            normed_BTD = self._norm(f"{name}.ln_1", x_BTD).to(self._dtype)
            x_BTD = x_BTD + self._attention(layer, normed_BTD, place, batch, into)
            normed_BTD = self._norm(f"{name}.ln_2", x_BTD).to(self._dtype)
            h_BTF = self._linear(f"{name}.mlp.c_fc", normed_BTD)
            x_BTD = x_BTD + self._linear(f"{name}.mlp.c_proj", functional.gelu(h_BTF, approximate="tanh"))
            self._at_depth(layer + 1, x_BTD, batch, into)
        wanted_MD = torch.cat([x_BTD[b, _wanted(piece)] for b, piece in enumerate(batch)])
        return self._norm("ln_f", wanted_MD)  # [M, D]

    def _attention(self, layer: int, x_BTD: Tensor, place: Place, batch: list[Work], into: list[Result]) -> Tensor:
        name = f"h.{layer}.attn"
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (self.config.n_head, -1)).transpose(1, 2)
            for part in self._linear(f"{name}.c_attn", x_BTD).chunk(3, dim=-1)
        )
        k_BHSK, v_BHSK = self._pool.keep(layer, place, k_BHTK, v_BHTK)
        mixed_BHTK = functional.scaled_dot_product_attention(
            q_BHTK, k_BHSK, v_BHSK, attn_mask=place.mask_B1TS, is_causal=place.causal
        )
        for b, piece in enumerate(batch):
            for of_layer, head in piece.want.trace.attention if piece.want.trace else ():
                if of_layer == layer:
                    S = self._pool.lengths[piece.slot] + len(piece.tokens)
                    q_RK = q_BHTK[b, head, _wanted(piece)].float()
                    scores_RS = q_RK @ k_BHSK[b, head, :S].float().T / math.sqrt(self.config.head_width)
                    future_RS = torch.ones_like(scores_RS, dtype=torch.bool).triu(S - len(q_RK) + 1)
                    weights_RS = scores_RS.masked_fill(future_RS, -math.inf).softmax(-1)
                    into[b].attention[layer, head] = weights_RS.cpu().numpy()
        return self._linear(f"{name}.c_proj", mixed_BHTK.transpose(1, 2).flatten(-2))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._arrays[f"{name}.w"], self._arrays[f"{name}.b"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        g_D, b_D = self._arrays[f"{name}.g"], self._arrays[f"{name}.b"]
        return functional.layer_norm(x, g_D.shape, g_D, b_D, self.config.layer_norm_epsilon)

    def _at_depth(self, depth: int, x_BTD: Tensor, batch: list[Work], into: list[Result]) -> None:
        """Apply patches to the residual stream and trace it."""
        for b, piece in enumerate(batch):
            for patch in piece.patches:
                if patch.depth == depth:
                    x_BTD[b, patch.row] = torch.as_tensor(patch.value_D, device=self._device)
            if piece.want.trace and depth in piece.want.trace.residual:
                into[b].residual[depth] = x_BTD[b, _wanted(piece)].cpu().numpy()


def _logits(rows_MD: Tensor, arrays: Mapping[str, Tensor], vocab_size: int) -> Tensor:
    """Logits in float32, whatever the form of the weights: bf16 would space them half a unit apart."""
    wte_VD = arrays["wte"]
    if wte_VD.dtype == torch.float32:
        logits_MV = rows_MD @ wte_VD.T
    else:
        logits_MV = torch.mm(rows_MD.to(wte_VD.dtype), wte_VD.T, out_dtype=torch.float32)
    return logits_MV[:, :vocab_size]


def _only_drawn(want: Want) -> Draw | None:
    """The draw, if nothing else is wanted."""
    is_alone = want.rows and not (want.logits or want.best or want.targets is not None)
    return want.draw if is_alone else None


def _only_scored(want: Want) -> bool:
    return not (want.logits or want.best or want.draw is not None)


def _wanted(piece: Work) -> slice:
    """The wanted rows among the piece's tokens."""
    return slice(len(piece.tokens) - piece.want.rows, len(piece.tokens))


def _find(name: str) -> torch.device:
    """The device of that name, checked to work."""
    try:
        return torch.zeros(1, device=name).device  # with its number: "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError) as error:  # PyTorch lacks the driver or the build
        cause = str(error).splitlines()[0]
        raise BackendError(f"PyTorch cannot compute on {name!r}: {cause}. Choose another device.") from error


def _choose_form(form: str, device: torch.device) -> str:
    """The requested form, or the device's best, checked to be supported."""
    cuda = device.type == "cuda"
    fast_bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if form == "auto":
        return ("bf16" if fast_bf16 else "fp16") if cuda else "fp32"
    has = {"cpu": {"fp32", "bf16"}, "cuda": {"fp32", "fp16"} | ({"bf16"} if fast_bf16 else set())}
    known = has.get(device.type, {"fp32", "fp16"})
    if form not in known:
        raise BackendError(
            f"the torch backend cannot hold weights in {form} on {device}: there it knows {', '.join(sorted(known))}."
        )
    return form
