"""A step on a GPU is the step on the CPU. Skipped where there is no GPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gpt2 import backends
from gpt2.backends import Want, Work
from gpt2.checkpoint import Weights
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.train import TrainConfig
from gpt2.train.attention import AttentionKernels, choose_attention
from gpt2.train.precision import Precision
from gpt2.train.rounding import round_int4
from gpt2.train.step import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32, reason="to compare")
GPU = Precision(device=torch.device("cuda"), dtype=torch.float32, reason="to compare")
GPU_BF16 = Precision(device=torch.device("cuda"), dtype=torch.bfloat16, reason="to compare")


def steps(config: TrainConfig, precision: Precision, n_steps: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    model = GPT(config.model)
    initialize(model, torch.Generator().manual_seed(1))
    learner = Learner(model.to(precision.device), config, precision)
    ids = np.random.default_rng(0).integers(config.model.vocab_size, size=(8, 17))
    losses = [learner.step(ids[:, :-1], ids[:, 1:], step=step + 1, tokens=0).loss for step in range(n_steps)]
    return losses, {name: p.detach().cpu() for name, p in model.named_parameters()}


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_in_float32_it_is_the_step_of_the_cpu(make_config: Callable[..., TrainConfig], matrices: str) -> None:
    config = make_config(loss={"rows": 0}, optim={"matrices": matrices, "eps": 1e-6})
    losses, ours = steps(config, GPU)
    expected_losses, expected = steps(config, CPU)
    # Muon's products are in bfloat16 on a GPU
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5 if matrices == "adamw" else 5e-3)
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4 if matrices == "adamw" else 2e-2)


@pytest.mark.parametrize(("compiled", "residual"), [(False, "fp32"), (False, "bf16"), (True, "bf16")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_in_bf16_the_loss_is_near(make_config: Callable[..., TrainConfig], compiled: bool, residual: str) -> None:
    run = {"compile": compiled, "residual": residual}
    config = make_config(loss={"rows": 0}, optim={"matrices": "adamw"}, run=run)
    losses, _ = steps(config, GPU_BF16)
    np.testing.assert_allclose(losses, steps(config, CPU)[0], rtol=1e-2)


def test_the_backend_gives_the_logits_of_the_reference(make_config: Callable[..., TrainConfig]) -> None:
    model = GPT(make_config().model)
    initialize(model, torch.Generator().manual_seed(1))
    weights = Weights.from_arrays(model.config, {name: array.numpy() for name, array in model.named_arrays()})
    results = []
    for backend, device in (("torch", "cuda"), ("reference", "cpu")):
        opened = backends.open(weights, backend=backend, device=device, form="fp32")
        work = Work(slot=opened.new(), tokens=[1, 2, 3, 4, 5], want=Want(rows=5, logits=True))
        results.append(opened.step([work])[0].logits_RV)
        opened.close()
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_every_attention_kernel_gives_the_same(make_config: Callable[..., TrainConfig]) -> None:
    chosen = choose_attention(make_config().model, GPU_BF16, sequences=4, seq_tokens=32)
    assert chosen.order, "PyTorch's own order would be used"
    q, k, v = torch.randn(3, 4, 2, 32, 64, device="cuda", dtype=torch.bfloat16)
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = attend(q.double(), k.double(), v.double(), is_causal=True)
    for kernel in chosen.order:
        with AttentionKernels((kernel,)).preferred():
            torch.testing.assert_close(attend(q, k, v, is_causal=True).double(), expected, rtol=0, atol=2e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_compiled_rounding_is_the_rounding_of_the_cpu() -> None:
    weight_OI = torch.randn(96, 128, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(round_int4, dynamic=False)
    ours_OI, expected_OI = compiled(weight_OI.cuda()).cpu(), round_int4(weight_OI)
    assert (ours_OI - expected_OI).abs().gt(1e-6).float().mean() < 1e-3  # near ties may fall either way
