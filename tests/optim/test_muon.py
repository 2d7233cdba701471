import pytest
import torch
from torch import Tensor, nn

from gpt2.optim import Muon, orthogonalize


def matrices(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 4), (2, 4, 16)], ids=str)
def test_singular_values_come_near_one_and_the_vectors_stay(shape: tuple[int, ...]) -> None:
    g = matrices(*shape)
    left, values, right = torch.linalg.svd(g, full_matrices=False)
    # directions that hardly occur are not brought up in five rounds
    g = left @ torch.diag_embed(values.clamp(min=0.2 * float(values.max()))) @ right
    mapped = left.mT @ orthogonalize(g) @ right.mT
    diagonal = mapped.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(mapped, torch.diag_embed(diagonal), rtol=0, atol=1e-9)
    assert float(diagonal.min()) > 0.6
    assert float(diagonal.max()) < 1.3


def test_a_batch_equals_one_by_one() -> None:
    g = matrices(4, 6, 10)
    alone = torch.stack([orthogonalize(each[None])[0] for each in g])
    torch.testing.assert_close(orthogonalize(g), alone, rtol=1e-12, atol=1e-12)


def test_scale_does_not_matter_and_zero_stays_zero() -> None:
    g = matrices(1, 5, 7)
    torch.testing.assert_close(orthogonalize(g * 1e4), orthogonalize(g), rtol=1e-4, atol=1e-4)
    assert not orthogonalize(torch.zeros(1, 5, 7)).any()


def test_queries_keys_and_values_are_orthogonalised_apart() -> None:
    gradient = matrices(12, 4)
    gradient[:4] *= 1000.0  # together, the other two parts would vanish
    p = nn.Parameter(torch.zeros(12, 4, dtype=torch.float64))
    p.grad = gradient.clone()
    Muon([("h.0.attn.c_attn.weight", p)], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    expected = torch.cat([-orthogonalize(part[None])[0] for part in gradient.chunk(3)])
    torch.testing.assert_close(p.detach(), expected, rtol=1e-9, atol=1e-9)


def test_step_is_momentum_nesterov_decay_and_a_scale_by_shape() -> None:
    p = nn.Parameter(matrices(8, 2))
    before = p.detach().clone()
    first, second = matrices(2, 8, 2)
    optimizer = Muon([("h.0.mlp.c_fc.weight", p)], lr=0.1, momentum=0.9, weight_decay=0.5)
    average = torch.zeros_like(before)
    for gradient in (first, second):
        p.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        update = orthogonalize((0.1 * gradient + 0.9 * average)[None])[0]
        before = before * (1 - 0.1 * 0.5) - 0.1 * 2.0 * update  # sqrt(8 / 2)
        torch.testing.assert_close(p.detach(), before, rtol=1e-9, atol=1e-9)


def test_cautious_decay_leaves_weights_alone_that_the_step_makes_larger() -> None:
    before, gradient = matrices(2, 8, 8)
    p = nn.Parameter(before.clone())
    p.grad = gradient.clone()
    Muon([("h.0.mlp.c_fc.weight", p)], lr=0.1, momentum=0.0, weight_decay=0.5, cautious=True).step()
    change = -0.1 * orthogonalize(gradient[None])[0]
    shrinks = change.sign() == -before.sign()
    assert shrinks.any()
    assert not shrinks.all()
    torch.testing.assert_close(p.detach(), before * (1 - 0.1 * 0.5 * shrinks) + change, rtol=1e-9, atol=1e-9)


def test_products_in_bfloat16_are_enough() -> None:
    """Singular values come as near 1, though the matrices differ by bfloat16's rounding."""
    g = matrices(3, 16, 8).float()
    rough = orthogonalize(g, products=torch.bfloat16)
    assert rough.dtype == torch.float32
    exact = orthogonalize(g)
    assert not torch.equal(rough, exact)
    assert float((rough - exact).norm() / exact.norm()) < 0.03


def test_a_parameter_without_gradient_is_left_alone() -> None:
    p = nn.Parameter(matrices(3, 3))
    before = p.detach().clone()
    Muon([("h.0.mlp.c_fc.weight", p)], lr=1.0, momentum=0.9, weight_decay=0.1).step()
    assert torch.equal(p, before)
