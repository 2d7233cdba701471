import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gpt2.train.activated_map import activated_map


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 50, 24), (7, 24), (7,), (2, 50, 7))
    h, weight, bias, g = (torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes)
    return (3.0 * h).requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), g


def plain(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(functional.gelu(h, approximate="tanh"), weight, bias)


def test_equals_gelu_and_the_map_and_their_gradients() -> None:
    *given, g = inputs(torch.float64)
    ours, theirs = activated_map(*given), plain(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for one, other in zip(torch.autograd.grad(ours, given, g), torch.autograd.grad(theirs, given, g), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_far_from_zero_nothing_overflows() -> None:
    h = torch.tensor([[[-1e4, -30.0, 0.0, 30.0, 1e4]]], requires_grad=True)
    out = activated_map(h, torch.eye(5), torch.zeros(5))
    assert out.tolist() == [[[0.0, 0.0, 0.0, 30.0, 1e4]]]
    (slope,) = torch.autograd.grad(out.sum(), h)
    assert slope.tolist() == [[[0.0, 0.0, 0.5, 1.0, 1.0]]]


def test_in_bf16_it_is_as_exact_as_pytorch_s() -> None:
    *given, g = inputs(torch.bfloat16)
    exactly = [x.detach().double().requires_grad_() for x in given]
    exact = plain(*exactly)
    goals = [exact, *torch.autograd.grad(exact, exactly, g.double())]
    ours, theirs = activated_map(*given), plain(*given)
    found = [ours, *torch.autograd.grad(ours, given, g)]
    others = [theirs, *torch.autograd.grad(theirs, given, g)]

    def error(of: Tensor, goal: Tensor) -> float:
        return float((of.detach().double() - goal.detach()).norm() / goal.detach().norm())

    for one, other, goal in zip(found, others, goals, strict=True):
        assert error(one, goal) < 1.1 * error(other, goal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_in_float32_have_gradients_in_float32(dtype: torch.dtype) -> None:
    h, *_ = inputs(dtype)
    _, weight, bias, _ = inputs(torch.float32)
    out = activated_map(h, weight, bias)
    assert out.dtype == dtype
    kinds = [x.dtype for x in torch.autograd.grad(out.sum(), (h, weight, bias))]
    assert kinds == [dtype, torch.float32, torch.float32]
