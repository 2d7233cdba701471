"""From token ids to the loss as one module, to be compiled, shared between processes and differentiated.

Axes: B sequences, T tokens, N tokens whose next one is wanted, D embedding.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2.model.gpt import GPT
from gpt2.train.loss import Rows, Softmax, cross_entropy

Blocks = Sequence[Callable[[Tensor], Tensor]]


class Objective(nn.Module):
    """The summed loss of a micro-batch times a factor.

    Args:
        model: whose loss it is.
        blocks: compiled versions to call in place of the model's own blocks; None: its own.
        softmax: of the loss; None: the one that needs no compiler.
        chunk_tokens: the most tokens whose logits exist at one time.
        recompute: keep only the input of each block, and recompute the rest in the backward pass.
        residual: dtype of the residual stream; None: that of the parameters.
    """

    def __init__(
        self,
        model: GPT,
        *,
        blocks: Blocks | None,
        softmax: Softmax | None,
        chunk_tokens: int,
        recompute: bool,
        residual: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        own: Blocks = cast("Any", list(model.h)) if blocks is None else blocks
        self._blocks = [_recomputed(block) for block in own] if recompute else blocks
        self._softmax = softmax
        self._chunk_tokens = chunk_tokens
        self._residual = residual

    def forward(
        self, ids_BT: Tensor, targets_BT: Tensor, wanted_BT: Tensor | None, rows: Rows | None, scale: float
    ) -> Tensor:
        """The summed loss of the wanted targets times `scale`; a scalar.

        Args:
            ids_BT: token ids.
            targets_BT: the token that follows each.
            wanted_BT: which targets count; None: all.
            rows: of the head that the loss runs over; None: all.
            scale: one over the tokens of the whole batch gives the mean.
        """
        x_BTD = self.model.hidden(ids_BT, blocks=self._blocks, residual=self._residual)
        x_ND, targets_N = x_BTD.flatten(0, 1), targets_BT.flatten()
        if wanted_BT is not None:
            x_ND, targets_N = x_ND[wanted_BT.flatten()], targets_N[wanted_BT.flatten()]
            if not targets_N.numel():
                return 0.0 * x_ND.sum()  # no targets: the other processes still wait for a gradient
        # uncompiled with marks: each number of wanted tokens would be a new shape to compile for
        softmax = self._softmax if wanted_BT is None else None
        head = self.model.wte.weight
        if rows is not None:
            head, targets_N = head[rows.ids], rows.place[targets_N]
        return cross_entropy(
            x_ND,
            head,
            targets_N,
            correction_V=None if rows is None else rows.correction,
            chunk_tokens=self._chunk_tokens,
            scale=scale,
            softmax=softmax,
        )


def _recomputed(block: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x_BTD: Tensor) -> Tensor:
        return cast("Tensor", checkpoint(block, x_BTD, use_reentrant=False))

    return forward
