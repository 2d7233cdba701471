import torch
from torch import nn

from gpt2.optim import adamw


def test_equals_the_formula_of_the_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, written out, in float64, over several steps."""
    lr, (b1, b2), eps, decay = 0.01, (0.8, 0.95), 1e-8, 0.1
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    p, q = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    optimizer = adamw([p], [q], lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)
    expected = {p: first.clone(), q: first.clone()}
    moments = {x: (torch.zeros_like(first), torch.zeros_like(first)) for x in (p, q)}
    for step in range(1, 6):
        gradient = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        p.grad, q.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        for x, shrink in ((p, lr * decay), (q, 0.0)):
            m, v = moments[x]
            m.mul_(b1).add_((1 - b1) * gradient)
            v.mul_(b2).add_((1 - b2) * gradient**2)
            step_size = lr * (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)
            expected[x] = expected[x] * (1 - shrink) - step_size
            torch.testing.assert_close(x.detach(), expected[x], rtol=1e-12, atol=1e-12)


def test_equals_torch_in_its_plain_form() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(7, generator=generator, dtype=torch.float64)
    p, q = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    ours = adamw([p], [], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    plain = torch.optim.AdamW([q], lr=0.1, weight_decay=0.01, foreach=False)
    for _ in range(4):
        p.grad = torch.randn(7, generator=generator, dtype=torch.float64)
        q.grad = p.grad.clone()
        ours.step()
        plain.step()
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
