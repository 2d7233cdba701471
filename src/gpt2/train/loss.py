"""Next-token cross-entropy over a vocabulary of 50,257 without ever holding [tokens x 50,257] logits.

The plain loss is `functional.cross_entropy(x @ head.T, targets)`. Here it is computed in chunks of tokens. A chunk's
softmax also gives its gradient, so both come from the same pass: three matrix products a chunk and no logits kept.

The passes over the logits between the products cost more than the products wherever memory is slow relative to
arithmetic: on every GPU. `fused_softmax` has PyTorch's compiler fuse them into one that reads and one that writes.

`sample_rows` chooses fewer rows of the head, for training on processors where the head is most of the work.

Axes: N tokens, C tokens of one chunk, V vocabulary, R chosen rows of the head, D embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# On a GPU the head's rows are padded to a multiple of this: 50,257 is odd, and matrix units need aligned rows.
_PADDED_ROWS = {"cuda": 64}

# From logits [C, V], their targets [C], a correction [V] or None, how many of the V are rows, and a factor:
# the sum of the losses and the gradient of the logits, scaled by the factor. The gradient may overwrite the logits.
Softmax = Callable[[Tensor, Tensor, Tensor | None, int, float], tuple[Tensor, Tensor]]


def cross_entropy(
    x_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    *,
    correction_V: Tensor | None = None,
    chunk_tokens: int = 1024,
    scale: float | None = None,
    softmax: Softmax | None = None,
) -> Tensor:
    """Mean negative log-likelihood of the targets, in nats; a scalar that can be differentiated once.

    Args:
        x_ND: the residual stream after the last norm.
        head_VD: a row for each possible next token.
        targets_N: indices of rows.
        correction_V: added to every logit but the target's own.
        chunk_tokens: the most tokens whose logits exist at one time.
        scale: factor of the sum over tokens; None gives the mean, 1/N.
        softmax: turns logits into loss and gradient; None: `softmax_in_place`, which needs no compiler.

    The products run in the dtype of autocast, if it is on; sums and the softmax in at least float32.
    """
    device = x_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
    scale = 1.0 / x_ND.shape[0] if scale is None else scale
    # under no_grad, needs_input_grad is still true: do not compute the gradient then
    wanted = torch.is_grad_enabled() and (x_ND.requires_grad or head_VD.requires_grad)
    loss: Any = _ChunkedCrossEntropy.apply(
        x_ND, head_VD, targets_N, correction_V, chunk_tokens, scale, dtype, wanted, softmax or softmax_in_place
    )
    return loss


def softmax_in_place(
    logits_CV: Tensor, targets_C: Tensor, correction_V: Tensor | None, n_rows: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one chunk in the least memory: the gradient overwrites the logits."""
    dtype, own_C1 = logits_CV.dtype, targets_C[:, None]
    sums_CV = logits_CV.to(torch.float64 if dtype == torch.float64 else torch.float32)
    target_C1 = sums_CV.gather(1, own_C1)
    if correction_V is not None:
        sums_CV.add_(correction_V).scatter_(1, own_C1, target_C1)
    sums_CV[:, n_rows:] = -torch.inf
    top_C1 = sums_CV.amax(1, keepdim=True)
    weights_CV = sums_CV.sub_(top_C1).exp_()
    norm_C1 = weights_CV.sum(1, keepdim=True)
    loss = (norm_C1.log() + top_C1 - target_C1).sum()
    gradient_CV = weights_CV.mul_(scale / norm_C1)
    gradient_CV.scatter_add_(1, own_C1, torch.full_like(top_C1, -scale))
    return loss, gradient_CV.to(dtype)


def softmax_in_passes(
    logits_CV: Tensor, targets_C: Tensor, correction_V: Tensor | None, n_rows: int, scale: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The same in whole arrays, which the compiler fuses into one pass that reads and one that reads and writes."""
    own_C1 = targets_C[:, None]
    sums_CV = logits_CV.to(torch.float64 if logits_CV.dtype == torch.float64 else torch.float32)
    target_C1 = sums_CV.gather(1, own_C1)
    column_V = torch.arange(logits_CV.shape[1], device=logits_CV.device)
    is_own_CV = column_V == own_C1
    if correction_V is not None:
        sums_CV = torch.where(is_own_CV, sums_CV, sums_CV + correction_V)
    sums_CV = torch.where(column_V < n_rows, sums_CV, -torch.inf)
    norm_C1 = sums_CV.logsumexp(1, keepdim=True)
    gradient_CV = ((sums_CV - norm_C1).exp() - is_own_CV.to(sums_CV.dtype)) * scale
    return (norm_C1 - target_C1).sum(), logits_CV.copy_(gradient_CV)


def fused_softmax(backend: Any = "inductor") -> Softmax:
    """`softmax_in_passes`, compiled when first called, for each shape of a chunk.

    The factor is passed as an array: a number would be a compile-time constant, and every batch length and loss scale
    would compile again.
    """
    compiled: Any = torch.compile(softmax_in_passes, dynamic=False, backend=backend)

    def softmax(
        logits_CV: Tensor, targets_C: Tensor, correction_V: Tensor | None, n_rows: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        sums = torch.promote_types(logits_CV.dtype, torch.float32)
        factor = torch.full((), scale, dtype=sums, device=logits_CV.device)
        return compiled(logits_CV, targets_C, correction_V, n_rows, factor)

    return softmax


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        correction_V: Tensor | None,
        chunk_tokens: int,
        scale: float,
        dtype: torch.dtype,
        wanted: bool,
        softmax: Softmax,
    ) -> Tensor:
        n_rows = head_VD.shape[0]
        padding = -n_rows % _PADDED_ROWS.get(x_ND.device.type, 1)
        with torch.autocast(x_ND.device.type, enabled=False):
            head = functional.pad(head_VD.to(dtype), (0, 0, 0, padding))
            if correction_V is not None:
                correction_V = functional.pad(correction_V, (0, padding))
            total: Tensor | None = None
            grad_x_ND = torch.empty_like(x_ND) if wanted else None
            head_learns = wanted and ctx.needs_input_grad[1]  # the head of a model with adapters does not
            grad_head_VD: Tensor | None = None
            for x_CD, targets_C, at in zip(
                x_ND.split(chunk_tokens),
                targets_N.split(chunk_tokens),
                range(0, x_ND.shape[0], chunk_tokens),
                strict=True,
            ):
                x = x_CD.to(dtype)
                loss, gradient_CV = softmax(x @ head.T, targets_C, correction_V, n_rows, scale)
                total = loss if total is None else total + loss
                if grad_x_ND is not None:
                    grad_x_ND[at : at + x.shape[0]] = gradient_CV @ head
                if head_learns:
                    if grad_head_VD is None:
                        grad_head_VD = (gradient_CV.T @ x).to(head_VD.dtype)
                    elif dtype == head_VD.dtype:
                        grad_head_VD.addmm_(gradient_CV.T, x)
                    else:
                        grad_head_VD += gradient_CV.T @ x
                del gradient_CV  # before the next chunk's logits are allocated
            if grad_x_ND is not None:
                ctx.save_for_backward(grad_x_ND, None if grad_head_VD is None else grad_head_VD[:n_rows])
        assert total is not None, "a batch has tokens"
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_x_ND, grad_head_VD = ctx.saved_tensors
        # in place, since each is used only once: PyTorch refuses a second backward pass
        grad_head = None if grad_head_VD is None else grad_head_VD.mul_(grad_output)
        return grad_x_ND.mul_(grad_output), grad_head, *(None,) * 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of the head that one step's loss runs over.

    Attributes:
        ids: their token ids, ascending, [R].
        correction: minus the logarithm of each row's probability of being chosen, [R].
        place: the index of a token's row in `ids`, [V]; defined only for tokens of the batch.
    """

    ids: Tensor
    correction: Tensor
    place: Tensor

    def to(self, device: torch.device) -> "Rows":
        """The same on another device."""
        return Rows(ids=self.ids.to(device), correction=self.correction.to(device), place=self.place.to(device))


def sample_rows(
    targets: NDArray[np.int64], frequency_V: NDArray[np.float64], n_rows: int, rng: np.random.Generator
) -> Rows:
    """Choose rows for one batch: every token of it, and uniform random others up to `n_rows`.

    A row v is chosen with probability q = 1 - (1 - p)^n (1 - r): p is the token's frequency in the corpus, n the
    tokens of the batch and r the fraction of the other rows that is drawn. Correcting a logit by -log q makes up for
    the times its row is left out, so the softmax's sum stays nearly unbiased, as in importance sampling (Bengio and
    Senecal 2003; Jean et al. 2015). The target's own logit is not corrected, since it is always there.
    """
    present_V = np.zeros(frequency_V.size, dtype=bool)
    present_V[targets] = True
    others = np.flatnonzero(~present_V)
    n_drawn = min(max(n_rows - int(present_V.sum()), 0), others.size)
    present_V[rng.permutation(others)[:n_drawn]] = True
    ids_R = np.flatnonzero(present_V)
    share = n_drawn / others.size if others.size else 1.0
    absent_R = (1.0 - frequency_V[ids_R]) ** targets.size * (1.0 - share)
    correction_R = -np.log(np.maximum(1.0 - absent_R, 1e-12))
    place_V = np.zeros(frequency_V.size, dtype=np.int64)
    place_V[ids_R] = np.arange(ids_R.size)
    return Rows(
        ids=torch.from_numpy(ids_R),
        correction=torch.from_numpy(correction_R.astype(np.float32)),
        place=torch.from_numpy(place_V),
    )
