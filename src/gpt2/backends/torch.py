"""The PyTorch backend: any device PyTorch knows, in fp32, bf16 or fp16.

Pieces of work of similar length run as one batch, padded at the end; a decode step over many slots is one. In
bf16 and fp16 the matrix products and the cache are narrow, while the residual stream, the layer norms and the
logits stay in float32.

Axes: B pieces of work, T tokens of the longest, M wanted rows of all of them, S tokens in the longest slot,
N slots in the pool, C capacity of each, L layers, H heads, K width of a head, V vocabulary, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gpt2.backends.seam import CLOSED, Result, Source, Work, check, undrawn
from gpt2.checkpoint.names import shapes
from gpt2.config import ModelConfig
from gpt2.errors import BackendError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOGITS_AT_ONCE = 1 << 22  # 16 MB of float32
_TOKENS_AT_ONCE = 8192  # of a padded batch
_LEAST_CAPACITY = 64


class TorchBackend:
    """PyTorch behind the seam; see `seam.Backend` for what its methods promise.

    Args:
        weights: copied to the device.
        device: "cpu", "cuda", "cuda:1", "mps".
        form: "fp32", "bf16" or "fp16"; "auto" is bf16 or fp16 on CUDA, whichever the device computes fast, else fp32.
        threads: CPU threads. PyTorch has one such setting for the whole process, and this changes it.

    Raises:
        BackendError: the device is not here, or cannot compute in this form.
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
                array = array.T.contiguous()  # [out, in]: in bf16 a CPU multiplies by this 7 times as fast
            narrow = ".c_" in name  # the head stays wide: logits in bf16 would be half a unit apart
            self._arrays[name] = array.to(self._device, self._dtype if narrow else torch.float32)
        self._pool = _Pool(self.config, self._device, self._dtype)

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
        if not self._arrays:  # closed: all went with it
            return
        self._pool.free(slot)

    def bytes(self) -> int:
        """Memory that the slots hold at present."""
        return self._pool.kv.nbytes

    def slot_bytes(self, tokens: int) -> int:
        """The most that a slot takes, however few its tokens: all rows are as long as the longest, and rows double."""
        config = self.config
        return 2 * 2 * config.n_layer * config.n_embd * config.n_positions * self._dtype.itemsize

    def close(self) -> None:
        """Give back everything; the backend cannot be used afterwards."""
        self._arrays.clear()
        self._pool = _Pool(self.config, self._device, self._dtype)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def step(self, work: Sequence[Work]) -> list[Result]:
        """Append every work's tokens to its slot and return what each wanted, in order."""
        check(self.config, self.length, work)
        work = undrawn(work)
        results = [Result() for _ in work]
        for group in self._group(work):
            batch = [work[index] for index in group]
            into = [results[index] for index in group]
            rows_MD = self._forward(batch, into)
            self._read_out(batch, into, rows_MD)
        return results

    @property
    def _open_pool(self) -> "_Pool":
        if not self._arrays:
            raise BackendError(CLOSED)
        return self._pool

    def _group(self, work: Sequence[Work]) -> list[list[int]]:
        """Split work into batches: fewer than half of a batch's tokens are padding, and it is not too large."""
        by_length: dict[int, list[list[int]]] = {}
        for index in sorted(range(len(work)), key=lambda index: self._pool.row(work[index].slot)):
            doublings = (len(work[index].tokens) - 1).bit_length()  # 1, 2, 3-4, 5-8, ...
            groups = by_length.setdefault(doublings, [[]])
            if len(groups[-1]) << doublings >= _TOKENS_AT_ONCE:
                groups.append([])
            groups[-1].append(index)
        return [group for groups in by_length.values() for group in groups]

    def _forward(self, batch: list[Work], into: list[Result]) -> Tensor:
        """Run a batch, fill its slots and traces, and return the wanted rows of all of it after the last norm."""
        arrays, config = self._arrays, self.config
        place = self._pool.place(batch)
        x_BTD = arrays["wte"][place.ids_BT] + arrays["wpe"][place.positions_BT]
        self._at_depth(0, x_BTD, batch, into)
        for layer in range(config.n_layer):
            name = f"h.{layer}"
            normed_BTD = self._norm(f"{name}.ln_1", x_BTD).to(self._dtype)
            x_BTD = x_BTD + self._attention(layer, normed_BTD, place, batch, into)
            normed_BTD = self._norm(f"{name}.ln_2", x_BTD).to(self._dtype)
            h_BTF = self._linear(f"{name}.mlp.c_fc", normed_BTD)
            x_BTD = x_BTD + self._linear(f"{name}.mlp.c_proj", functional.gelu(h_BTF, approximate="tanh"))
            self._at_depth(layer + 1, x_BTD, batch, into)
        for piece in batch:
            self._pool.lengths[piece.slot] += len(piece.tokens)
        wanted_MD = torch.cat([x_BTD[b, _wanted(piece)] for b, piece in enumerate(batch)])
        return self._norm("ln_f", wanted_MD)  # [M, D]

    def _attention(self, layer: int, x_BTD: Tensor, place: "_Place", batch: list[Work], into: list[Result]) -> Tensor:
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
        """Put patches into the residual stream and take traces out of it."""
        for b, piece in enumerate(batch):
            for patch in piece.patches:
                if patch.depth == depth:
                    x_BTD[b, patch.row] = torch.as_tensor(patch.value_D, device=self._device)
            if piece.want.trace and depth in piece.want.trace.residual:
                into[b].residual[depth] = x_BTD[b, _wanted(piece)].cpu().numpy()

    def _read_out(self, batch: list[Work], into: list[Result], rows_MD: Tensor) -> None:
        """Answer all wants but the traces; pieces of work that want the same kind of thing are answered together."""
        alike: dict[tuple[bool, int, bool], list[int]] = {}
        for b, piece in enumerate(batch):
            want = piece.want
            if want.rows and (want.logits or want.best or want.targets is not None):
                alike.setdefault((want.logits, want.best, want.targets is not None), []).append(b)
        rows_of = rows_MD.split([piece.want.rows for piece in batch])
        rows_at_once = max(1, _LOGITS_AT_ONCE // self.config.vocab_size)
        for (logits, best, _), members in alike.items():
            hidden_MD = torch.cat([rows_of[b] for b in members])
            targets_M = [target for b in members for target in batch[b].want.targets or ()]
            parts: list[Result] = []
            for start in range(0, len(hidden_MD), rows_at_once):
                rows = slice(start, start + rows_at_once)
                logits_MV = hidden_MD[rows] @ self._arrays["wte"].T
                parts.append(_answer(logits_MV, logits=logits, best=best, targets_M=targets_M[rows]))
            ends = np.cumsum([batch[b].want.rows for b in members])
            for answer in _ANSWERS:
                if getattr(parts[0], answer) is not None:
                    whole = np.concatenate([getattr(part, answer) for part in parts])
                    for b, own in zip(members, np.split(whole, ends[:-1]), strict=True):
                        setattr(into[b], answer, own)


_ANSWERS = ("logits_RV", "best_ids_RK", "best_logprobs_RK", "target_logprobs_R", "target_ranks_R", "entropies_R")


def _answer(logits_MV: Tensor, *, logits: bool, best: int, targets_M: Sequence[int]) -> Result:
    """What is wanted of some rows of logits, brought to the CPU; no targets mean that none were asked for."""
    if not bool(torch.isfinite(logits_MV).all()):
        raise BackendError("the logits are not finite numbers: the weights are damaged. Fetch or convert them anew.")
    result = Result()
    if logits:
        result.logits_RV = logits_MV.cpu().numpy()
    if best or targets_M:
        logprobs_MV = logits_MV.log_softmax(-1)
        if best:
            ids_MK = _order(logits_MV).topk(min(best, logits_MV.shape[1])).indices
            result.best_ids_RK = ids_MK.int().cpu().numpy()
            result.best_logprobs_RK = logprobs_MV.gather(1, ids_MK).cpu().numpy()
        if targets_M:
            target_M1 = torch.tensor(targets_M, device=logits_MV.device)[:, None]
            level_M1 = logits_MV.gather(1, target_M1)
            lower_MV = torch.arange(logits_MV.shape[1], device=logits_MV.device) < target_M1
            before_MV = (logits_MV > level_M1) | ((logits_MV == level_M1) & lower_MV)
            result.target_ranks_R = before_MV.sum(-1).int().cpu().numpy()
            result.target_logprobs_R = logprobs_MV.gather(1, target_M1)[:, 0].cpu().numpy()
            result.entropies_R = -(logprobs_MV.exp() * logprobs_MV).sum(-1).cpu().numpy()
    return result


def _order(logits_MV: Tensor) -> Tensor:
    """Whole numbers in the order of the logits, and among equal logits the lower id first.

    The bits of a float, read as a whole number, already order those of one sign; `topk` alone leaves it open
    which of two equal logits comes first.
    """
    bits_MV = (logits_MV + 0.0).view(torch.int32).long()  # -0 becomes 0, which it equals
    ascending_MV = torch.where(bits_MV < 0, bits_MV ^ 0x7FFF_FFFF, bits_MV)
    V = logits_MV.shape[1]
    return (ascending_MV << 32) + torch.arange(V - 1, -1, -1, device=logits_MV.device)


def _wanted(piece: Work) -> slice:
    """The wanted rows among the piece's tokens."""
    return slice(len(piece.tokens) - piece.want.rows, len(piece.tokens))


def _find(name: str) -> torch.device:
    """The device of that name, made sure of."""
    try:
        return torch.zeros(1, device=name).device  # with its number: "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises for a driver or a build without it
        cause = str(error).splitlines()[0]
        raise BackendError(f"PyTorch cannot compute on {name!r}: {cause}. Choose another device.") from error


def _choose_form(form: str, device: torch.device) -> str:
    """The form asked for, or the device's best, made sure of."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a padded batch stands in the pool. M counts the tokens without the padding."""

    ids_BT: Tensor
    positions_BT: Tensor
    token_M: tuple[Tensor, Tensor]  # which of [B, T] is each token
    home_M: tuple[Tensor, Tensor]  # its row and position in the pool
    rows: Tensor | slice  # of the pool, one for each piece of work; a slice where they lie side by side
    S: int
    mask_B1TS: Tensor | None  # what a token attends to; None: all, or what came before if `causal`
    causal: bool


class _Pool:
    """Keys and values of all slots in one tensor, [2, L, N, H, C, K], that doubles and halves with its use.

    Slots occupy its first rows without gaps, so that a batch of all of them is read where it lies.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.lengths: dict[int, int] = {}  # slot -> tokens
        self._rows: dict[int, int] = {}  # slot -> row
        self._most = config.n_positions
        self._device = device
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
        if few or short:
            self._resize(2 * last if few else N, 2 * longest if short else C)

    def row(self, slot: int) -> int:
        """Where the slot lies at present."""
        return self._rows[slot]

    def place(self, batch: list[Work]) -> _Place:
        """Make room for the tokens of a batch and say where everything is."""
        rows = [self._rows[piece.slot] for piece in batch]
        past_B = np.array([self.lengths[piece.slot] for piece in batch])
        count_B = np.array([len(piece.tokens) for piece in batch])
        S, T = int((past_B + count_B).max()), int(count_B.max())
        if self.kv.shape[4] < S:
            self._resize(self.kv.shape[2], min(self._most, max(S, 2 * self.kv.shape[4], _LEAST_CAPACITY)))

        ids_BT = np.zeros((len(batch), T), np.int64)
        for b, piece in enumerate(batch):
            ids_BT[b, : len(piece.tokens)] = piece.tokens
        positions_BT = np.minimum(past_B[:, None] + np.arange(T), self._most - 1)
        b_M, t_M = np.nonzero(np.arange(T) < count_B[:, None])
        home_M = (np.array(rows)[b_M], positions_BT[b_M, t_M])
        positions = self._send(positions_BT)
        causal, alike = not past_B.any(), T == 1 and (past_B == past_B[0]).all()
        mask_BTS = None if causal or alike else torch.arange(S, device=self._device) <= positions[..., None]
        return _Place(
            ids_BT=self._send(ids_BT),
            positions_BT=positions,
            token_M=(self._send(b_M), self._send(t_M)),
            home_M=(self._send(home_M[0]), self._send(home_M[1])),
            rows=slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else self._send(rows),
            S=S,
            mask_B1TS=None if mask_BTS is None else mask_BTS[:, None],
            causal=causal,
        )

    def keep(self, layer: int, place: _Place, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
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
        self.kv = torch.zeros((*old.shape[:2], N, old.shape[3], C, old.shape[5]), device=old.device, dtype=old.dtype)
        n, c = min(N, old.shape[2]), min(C, old.shape[4])
        self.kv[:, :, :n, :, :c] = old[:, :, :n, :, :c]

    def _send(self, values: NDArray[np.int64] | list[int]) -> Tensor:
        return torch.as_tensor(values, device=self._device)
