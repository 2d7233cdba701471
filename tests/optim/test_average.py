import torch
from torch import nn

from gpt2.optim import Muon, adamw, average, take_average


def test_the_mean_of_the_last_steps_becomes_the_weights() -> None:
    draw = torch.Generator().manual_seed(0)
    matrix, vector, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizers = [
        Muon([("h.0.mlp.c_fc.weight", matrix)], lr=0.1, momentum=0.9, weight_decay=0.0),
        adamw([], [vector, still], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0),
    ]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(5):
        matrix.grad, vector.grad = torch.randn(4, 4, generator=draw), torch.randn(4, generator=draw)
        for optimizer in optimizers:
            optimizer.step()
        if step >= 2:
            average(optimizers)
            seen.append((matrix.detach().clone(), vector.detach().clone()))
    take_average(optimizers)
    torch.testing.assert_close(matrix.detach(), torch.stack([m for m, _ in seen]).mean(0))
    torch.testing.assert_close(vector.detach(), torch.stack([v for _, v in seen]).mean(0))
    assert torch.equal(still, torch.ones(4))
    before = matrix.detach().clone()
    take_average(optimizers)
    assert torch.equal(matrix, before), "it is taken once"
