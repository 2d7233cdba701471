import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gpt2.train import attention_blocks
from gpt2.train.attention_blocks import attend_in_blocks


def inputs(n_tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(2, 3, n_tokens, 8, generator=draw, dtype=torch.float64).to(dtype) for _ in range(4))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), g


@pytest.mark.parametrize("n_tokens", [1, 7, 8, 9, 32, 37])
def test_equals_attention_and_its_gradient(n_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_blocks, "_BLOCK_TOKENS", 8)
    q, k, v, g = inputs(n_tokens, torch.float64)
    ours = attend_in_blocks(q, k, v)
    plain = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours, (q, k, v), g), torch.autograd.grad(plain, (q, k, v), g), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_in_bf16_it_is_as_exact_as_pytorch_s() -> None:
    q, k, v, g = inputs(300, torch.bfloat16)
    exact_inputs = [x.detach().double().requires_grad_() for x in (q, k, v)]
    exact = functional.scaled_dot_product_attention(*exact_inputs, is_causal=True)
    exact_grads = torch.autograd.grad(exact, exact_inputs, g.double())
    ours, theirs = attend_in_blocks(q, k, v), functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def error(of: Tensor, exact: Tensor) -> float:
        return float((of.detach().double() - exact.detach()).norm() / exact.detach().norm())

    assert error(ours, exact) < 1.5 * error(theirs, exact)
    pairs = zip(torch.autograd.grad(ours, (q, k, v), g), torch.autograd.grad(theirs, (q, k, v), g), strict=True)
    for (one, other), goal in zip(pairs, exact_grads, strict=True):
        assert error(one, goal) < 2.0 * error(other, goal)
