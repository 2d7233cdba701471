import numpy as np
import pytest
import torch
from torch import nn

from gpt2.checkpoint.int4 import GROUP_INPUTS, quantise_int4
from gpt2.native.forms import quantise_int8
from gpt2.train.rounding import round_int4, round_int8, rounded


def weights(inputs: int) -> torch.Tensor:
    w_OI = torch.randn(24, inputs, generator=torch.Generator().manual_seed(inputs))
    w_OI[3] = 0.0
    w_OI[4, : min(inputs, 32)] *= 20.0  # one group above the others
    return w_OI


@pytest.mark.parametrize("inputs", [8, 32, 100])
def test_int8_is_the_form_of_the_kernels(inputs: int) -> None:
    w_OI = weights(inputs)
    codes_IO, scale_O = quantise_int8(w_OI.numpy().T)
    ours = round_int8(w_OI).numpy()
    np.testing.assert_allclose(ours, (codes_IO * scale_O).T, rtol=0, atol=1.01 * float(scale_O.max()))
    assert np.mean(~np.isclose(ours, (codes_IO * scale_O).T, rtol=1e-5, atol=1e-7)) < 0.002  # near ties


@pytest.mark.parametrize("inputs", [8, 32, 100])
def test_int4_is_the_form_of_the_kernels(inputs: int) -> None:
    w_OI = weights(inputs)
    codes_IO, group_scale_GO, row_scale_O = quantise_int4(w_OI.numpy().T)
    theirs = (codes_IO * np.repeat(group_scale_GO, GROUP_INPUTS, axis=0)[:inputs] * row_scale_O).T
    assert np.mean(~np.isclose(round_int4(w_OI).numpy(), theirs, rtol=1e-5, atol=1e-6)) < 0.002


def test_the_exact_weights_come_back() -> None:
    parameter = nn.Parameter(weights(64))
    before = parameter.detach().clone()
    with rounded([parameter], round_int4):
        assert torch.equal(parameter, round_int4(before))
    assert torch.equal(parameter, before)


def test_the_exact_weights_come_back_after_an_error() -> None:
    parameter = nn.Parameter(weights(64))
    before = parameter.detach().clone()

    def fail() -> None:
        with rounded([parameter], round_int8):
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert torch.equal(parameter, before)


def test_what_is_rounded_already_stays_as_it_is_in_int8() -> None:
    once = round_int8(weights(64))
    torch.testing.assert_close(round_int8(once), once, rtol=1e-6, atol=1e-7)
