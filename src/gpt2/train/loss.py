"""Next-token cross-entropy over a vocabulary of 50,257 without ever holding [tokens x 50,257] logits.

The plain loss is `functional.cross_entropy(x @ head.T, targets)`. Here it is computed in chunks of tokens, and
since its gradient is known as soon as a chunk's softmax is, the gradient is taken in the same pass: three matrix
products a chunk and no logits kept.

`sample_rows` chooses fewer rows of the head, for training on processors where the head is most of the work.

Axes: N tokens, C tokens of one chunk, V vocabulary, R chosen rows of the head, D embedding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def cross_entropy(
    x_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    *,
    correction_V: Tensor | None = None,
    chunk_tokens: int = 1024,
    scale: float | None = None,
) -> Tensor:
    """Mean negative log-likelihood of the targets, in nats; a scalar that can be differentiated once.

    Args:
        x_ND: the residual stream after the last norm.
        head_VD: a row for each token that may come next.
        targets_N: indices of rows.
        correction_V: added to every logit but the target's own.
        chunk_tokens: the most tokens whose logits exist at one time.
        scale: factor of the sum over tokens; None gives the mean, 1/N.

    The products run in the dtype of autocast, if it is on; sums and the softmax in float32 at least.
    """
    device = x_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
    scale = 1.0 / x_ND.shape[0] if scale is None else scale
    # under no_grad, autograd still reports what the inputs would need: the gradient must not be computed then
    wanted = torch.is_grad_enabled() and (x_ND.requires_grad or head_VD.requires_grad)
    loss: Any = _ChunkedCrossEntropy.apply(x_ND, head_VD, targets_N, correction_V, chunk_tokens, scale, dtype, wanted)
    return loss


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
    ) -> Tensor:
        with torch.autocast(x_ND.device.type, enabled=False):
            head = head_VD.to(dtype)
            sums = torch.float64 if dtype == torch.float64 else torch.float32
            total = torch.zeros((), dtype=sums, device=x_ND.device)
            grad_x_ND = torch.empty_like(x_ND) if wanted else None
            grad_head_VD = torch.zeros_like(head_VD) if wanted else None
            for x_CD, targets_C, at in zip(
                x_ND.split(chunk_tokens),
                targets_N.split(chunk_tokens),
                range(0, x_ND.shape[0], chunk_tokens),
                strict=True,
            ):
                x = x_CD.to(dtype)
                logits_CV = (x @ head.T).to(sums)
                own_C1 = targets_C[:, None]
                target_logits_C1 = logits_CV.gather(1, own_C1)
                if correction_V is not None:
                    logits_CV.add_(correction_V).scatter_(1, own_C1, target_logits_C1)
                top_C1 = logits_CV.amax(1, keepdim=True)
                weights_CV = logits_CV.sub_(top_C1).exp_()
                norm_C1 = weights_CV.sum(1, keepdim=True)
                total += (norm_C1.log() + top_C1 - target_logits_C1).sum()
                if grad_x_ND is not None and grad_head_VD is not None:
                    gradient_CV = weights_CV.mul_(scale / norm_C1)
                    gradient_CV.scatter_add_(1, own_C1, torch.full_like(top_C1, -scale))
                    gradient = gradient_CV.to(dtype)
                    grad_x_ND[at : at + x.shape[0]] = gradient @ head
                    if dtype == grad_head_VD.dtype:
                        grad_head_VD.addmm_(gradient.T, x)
                    else:
                        grad_head_VD += gradient.T @ x
            if grad_x_ND is not None and grad_head_VD is not None:
                ctx.save_for_backward(grad_x_ND, grad_head_VD)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_x_ND, grad_head_VD = ctx.saved_tensors
        return grad_x_ND * grad_output, grad_head_VD * grad_output, None, None, None, None, None, None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of the head that one step's loss runs over.

    Attributes:
        ids: their token ids, ascending, [R].
        correction: minus the logarithm of each one's chance of being here, [R].
        place: where a token's row is in `ids`, [V]; defined for tokens of the batch only.
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
    tokens of the batch and r the share of the other rows that is drawn. A logit corrected by -log q stands for
    all the times its row is left out, so that the sum of the softmax stays nearly unbiased (the idea is that of
    importance sampling: Bengio and Senecal 2003; Jean et al. 2015). The target's own logit is not corrected: it is
    always there.
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
