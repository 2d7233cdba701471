import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from gpt2.train.loss import cross_entropy, fused_softmax, sample_rows, softmax_in_passes, softmax_in_place


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(37, 8, generator=generator, dtype=dtype).requires_grad_()
    head_VD = torch.randn(101, 8, generator=generator, dtype=dtype).requires_grad_()
    return x_ND, head_VD, torch.randint(101, (37,), generator=generator)


@pytest.mark.parametrize("chunk_tokens", [1, 10, 37, 1000])
def test_equals_the_plain_loss_and_its_gradient(chunk_tokens: int) -> None:
    x, head, targets = inputs()
    ours = cross_entropy(x, head, targets, chunk_tokens=chunk_tokens)
    plain = functional.cross_entropy(x @ head.T, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for ours_grad, plain_grad in zip(
        torch.autograd.grad(3.0 * ours, (x, head)), torch.autograd.grad(3.0 * plain, (x, head)), strict=True
    ):
        torch.testing.assert_close(ours_grad, plain_grad, rtol=1e-10, atol=1e-12)


def test_the_correction_is_added_to_every_logit_but_the_target_s() -> None:
    x, head, targets = inputs()
    correction = torch.linspace(0.0, 3.0, 101, dtype=torch.float64)
    ours = cross_entropy(x, head, targets, correction_V=correction, chunk_tokens=10)
    logits = x @ head.T + correction * (1.0 - functional.one_hot(targets, 101))
    plain = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    ours_grads, plain_grads = torch.autograd.grad(ours, (x, head)), torch.autograd.grad(plain, (x, head))
    for ours_grad, plain_grad in zip(ours_grads, plain_grads, strict=True):
        torch.testing.assert_close(ours_grad, plain_grad, rtol=1e-10, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    x, head, targets = inputs(torch.float32)
    ours = cross_entropy(x * 300.0, head, targets)
    torch.testing.assert_close(ours, functional.cross_entropy(300.0 * x @ head.T, targets), rtol=1e-5, atol=1e-3)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    x, head, targets = inputs()
    whole = cross_entropy(x, head, targets)
    parts = sum(cross_entropy(x[at : at + 9], head, targets[at : at + 9], scale=1.0 / 37) for at in range(0, 37, 9))
    torch.testing.assert_close(whole, torch.as_tensor(parts), rtol=1e-12, atol=1e-12)


def test_autocast_multiplies_in_bf16() -> None:
    x, head, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = cross_entropy(x, head, targets)
    exact = cross_entropy(x, head, targets)
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, exact)
    torch.testing.assert_close(ours, exact, rtol=0.02, atol=0.02)
    for ours_grad, exact_grad in zip(
        torch.autograd.grad(ours, (x, head)), torch.autograd.grad(exact, (x, head)), strict=True
    ):
        assert ours_grad.dtype == torch.float32
        torch.testing.assert_close(ours_grad, exact_grad, rtol=0.1, atol=0.01)


def test_no_logits_are_kept_for_the_backward_pass() -> None:
    x, head, targets = inputs()
    loss = cross_entropy(x, head, targets, chunk_tokens=10)
    assert loss.grad_fn is not None
    kept = loss.grad_fn.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(tuple(each.shape) for each in kept) == sorted([(37, 8), (101, 8)])


def test_a_second_backward_pass_is_refused_since_the_first_used_up_the_gradient() -> None:
    x, head, targets = inputs()
    loss = cross_entropy(x, head, targets, chunk_tokens=10)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    kept = cross_entropy(x, head, targets, chunk_tokens=10)
    kept.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_without_gradients_only_logits_are_computed() -> None:
    x, head, targets = inputs()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cross_entropy(x, head, targets, chunk_tokens=10)
    assert counter.get_total_flops() == 2 * 37 * 101 * 8


def zipf(n: int) -> np.ndarray:
    weights = 1.0 / np.arange(1, n + 1)
    return weights / weights.sum()


def test_sampled_rows_hold_the_batch_and_nothing_twice() -> None:
    targets = np.random.default_rng(0).choice(1000, size=(4, 16), p=zipf(1000))
    rows = sample_rows(targets, zipf(1000), 200, np.random.default_rng(1))
    ids = rows.ids.numpy()
    assert ids.size == 200
    assert (np.diff(ids) > 0).all()
    assert (ids[rows.place.numpy()[targets]] == targets).all()
    assert (rows.correction.numpy() >= 0.0).all()


def test_sampled_rows_estimate_the_sum_of_the_softmax_with_little_bias() -> None:
    frequency, draw = zipf(2000), np.random.default_rng(0)
    weights = np.exp(draw.normal(0.0, 2.0, 2000))
    estimates: list[float] = []
    for _ in range(300):
        targets = draw.choice(2000, size=256, p=frequency)
        rows = sample_rows(targets, frequency, 600, draw)
        estimates.append(float((weights[rows.ids.numpy()] * np.exp(rows.correction.numpy())).sum()))
    assert np.mean(estimates) == pytest.approx(weights.sum(), rel=0.05)


def test_all_rows_need_no_correction() -> None:
    targets = np.arange(10)
    rows = sample_rows(targets, zipf(50), 50, np.random.default_rng(0))
    assert rows.ids.tolist() == list(range(50))
    assert not rows.correction.any()


def test_a_batch_with_more_tokens_than_rows_keeps_them_all() -> None:
    rows = sample_rows(np.arange(40), zipf(100), 10, np.random.default_rng(0))
    assert rows.ids.tolist() == list(range(40))
    assert np.isfinite(rows.correction.numpy()).all()


@pytest.mark.parametrize("corrected", [False, True])
def test_the_softmax_for_the_compiler_equals_the_one_in_place_with_padded_rows_left_out(corrected: bool) -> None:
    logits = torch.randn(37, 104, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.arange(37) % 101
    correction = torch.linspace(0.0, 3.0, 104, dtype=torch.float64) if corrected else None
    plain_loss, plain_gradient = softmax_in_place(logits[:, :101].clone(), targets, None, 101, 0.25)
    for softmax in (softmax_in_place, softmax_in_passes):
        loss, gradient = softmax(logits.clone(), targets, correction, 101, 0.25)
        assert bool((gradient[:, 101:] == 0).all())
        if not corrected:
            torch.testing.assert_close(loss, plain_loss, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradient[:, :101], plain_gradient, rtol=1e-12, atol=1e-15)
    one, other = (f(logits.clone(), targets, correction, 101, 0.25) for f in (softmax_in_place, softmax_in_passes))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of PyTorch's own compiler
def test_compiled_it_is_the_same_loss() -> None:
    x, head, targets = inputs(torch.float32)
    plain = cross_entropy(x, head, targets, chunk_tokens=10)
    fused = cross_entropy(x, head, targets, chunk_tokens=10, softmax=fused_softmax())
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(fused, (x, head)), torch.autograd.grad(plain, (x, head)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of PyTorch's own compiler
def test_one_compiled_softmax_serves_for_every_length_of_a_batch() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    x, head, targets = inputs(torch.float32)
    counter = CompileCounterWithBackend("aot_eager")
    softmax = fused_softmax(backend=counter)
    for tokens_of_the_batch in (37, 74, 111):
        cross_entropy(x, head, targets, scale=1.0 / tokens_of_the_batch, softmax=softmax)
    assert counter.frame_count == 1
