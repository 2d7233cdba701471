"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

For the linear maps inside the blocks only; embeddings, biases and gains belong to AdamW.

Axes: N matrices of one shape, O outputs, I inputs.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

# The quintic of Jordan et al.: it does not converge to 1, but brings every singular value into about [0.7, 1.2]
# in five rounds, which trains just as well and costs less.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonalize(g_NOI: Tensor, *, rounds: int = _ROUNDS, products: torch.dtype | None = None) -> Tensor:
    """Bring the singular values of each matrix near 1, keeping its singular vectors: Newton-Schulz, batched.

    A zero matrix stays zero.

    Args:
        g_NOI: matrices of one shape.
        rounds: of the iteration.
        products: dtype of the matrix products; None: that of the matrices. bfloat16 is enough, and much faster on
            hardware that has it: each round corrects small errors of the earlier ones.
    """
    a, b, c = _QUINTIC
    tall = g_NOI.shape[-2] > g_NOI.shape[-1]
    x = g_NOI.mT if tall else g_NOI  # so that the Gram matrix is the smaller one
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x if products is None else x.to(products)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g_NOI.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        named_parameters: matrices as [out, in], with their names: a `c_attn` holds the maps to queries, keys and
            values, and its three parts are orthogonalised separately.
        lr: length of a step, in units of an orthogonal matrix; the schedule sets it before each step.
        momentum: likewise.
        weight_decay: in units of 1 / learning rate.
        cautious: decay only weights that the step already shrinks.
        products: dtype of the orthogonalisation's products; None: that of the parameters.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        cautious: bool = False,
        products: torch.dtype | None = None,
    ) -> None:
        named = dict(named_parameters)
        self._cautious, self._products = cautious, products
        self._parts = {p: 3 if name.removesuffix(".weight").endswith("c_attn") else 1 for name, p in named.items()}
        super().__init__(
            [{"params": list(named.values())}], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closure
        """Update every parameter that has a gradient; matrices of one shape are orthogonalised together."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            apart: list[tuple[Any, Tensor]] = []
            decay = group["lr"] * group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                direction = self._direction(p, group["momentum"])
                is_shared = isinstance(cast("object", p), DTensor)
                if is_shared:  # sharded, and only a whole matrix can be orthogonalised
                    direction = cast("DTensor", direction).full_tensor()
                changed = p
                if is_shared or self._cautious:
                    changed = torch.zeros_like(direction)
                    apart.append((p, changed))
                if not self._cautious:
                    p.mul_(1.0 - decay)
                parts = self._parts[p]
                for part, update in zip(changed.chunk(parts), direction.chunk(parts), strict=True):
                    by_shape.setdefault(part.shape, []).append((part, update))
            for shape, pairs in by_shape.items():
                stacked_NOI = torch.stack([update for _, update in pairs])
                updates_NOI = orthogonalize(stacked_NOI, products=self._products)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5  # so that the output changes equally for any shape
                for (part, _), update in zip(pairs, updates_NOI, strict=True):
                    part.add_(update, alpha=-group["lr"] * scale)
            for p, whole_change in apart:
                change: Any = whole_change
                if isinstance(p, DTensor):
                    change = distribute_tensor(change, p.device_mesh, p.placements, src_data_rank=None)
                if self._cautious:
                    p.mul_(1.0 - decay * (change * p < 0.0))
                p.add_(change)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        """The gradient averaged over steps, with Nesterov's look-ahead."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        average: Tensor = state["momentum"]
        average.lerp_(p.grad, 1.0 - momentum)
        return p.grad.lerp(average, momentum)
