from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpt2.checkpoint.names import shapes
from gpt2.config import PUBLISHED, ModelConfig
from gpt2.errors import ContextError, MismatchError
from gpt2.model import reference
from gpt2.model.gpt import GPT

Arrays = dict[str, NDArray[Any]]


def loaded(config: ModelConfig, arrays: Arrays, dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> GPT:
    model = GPT(config, dropout=dropout).to(dtype)
    model.load_arrays(arrays)
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_logits_are_those_of_hugging_face_and_of_the_definition(
    config: ModelConfig,
    arrays: Arrays,
    ids_BT: NDArray[np.int64],
    huggingface: Any,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    with torch.no_grad():
        logits_BTV = loaded(config, arrays, dtype)(torch.tensor(ids_BT)).numpy()
    np.testing.assert_allclose(logits_BTV, huggingface(ids_BT), rtol=0, atol=tolerance)
    defined_BTV = np.stack([reference.logits(config, arrays, ids_T) for ids_T in ids_BT])
    np.testing.assert_allclose(logits_BTV, defined_BTV, rtol=0, atol=tolerance)


def test_hidden_is_what_the_head_reads(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    model = loaded(config, arrays)
    hidden_BTD = model.hidden(torch.tensor(ids_BT))
    assert hidden_BTD.shape == (*ids_BT.shape, config.n_embd)
    torch.testing.assert_close(hidden_BTD @ model.wte.weight.T, model(torch.tensor(ids_BT)))


def test_every_parameter_gets_the_gradient_that_differences_predict(
    config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]
) -> None:
    model = loaded(config, arrays)
    ids = torch.tensor(ids_BT)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter += 1e-5 * direction
            above = loss()
            parameter -= 2e-5 * direction
            below = loss()
            parameter += 1e-5 * direction
        slope = (parameter.grad * direction).sum()
        torch.testing.assert_close(slope, (above - below) / 2e-5, rtol=1e-4, atol=1e-7, msg=name)


def test_later_tokens_change_nothing_earlier(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    model = loaded(config, arrays)
    ids = torch.tensor(ids_BT)
    inputs = model.wte.weight.detach()[ids].requires_grad_()
    model.wte.register_forward_hook(lambda *_: inputs)
    position = ids.shape[1] // 2
    model.hidden(ids)[:, position].sum().backward()
    assert inputs.grad is not None
    assert (inputs.grad[:, position + 1 :] == 0).all()
    assert (inputs.grad[:, : position + 1] != 0).any(-1).all()


def test_dropout_acts_in_training_only(arrays: Arrays, config: ModelConfig, ids_BT: NDArray[np.int64]) -> None:
    ids = torch.tensor(ids_BT)
    model = loaded(config, arrays, dropout=0.5)
    torch.manual_seed(0)
    assert not torch.allclose(model(ids), model(ids))
    torch.testing.assert_close(model.eval()(ids), loaded(config, arrays)(ids))


def test_arrays_go_in_and_come_out(config: ModelConfig, arrays: Arrays) -> None:
    named = dict(loaded(config, arrays).named_arrays())
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == shapes(config)
    assert list(named) == list(shapes(config))
    for name, tensor in named.items():
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])
    again = GPT(config)
    again.load_arrays(named)
    for name, tensor in again.named_arrays():
        torch.testing.assert_close(tensor, named[name].float(), rtol=0, atol=0)


def test_read_only_arrays_can_be_loaded(config: ModelConfig, arrays: Arrays) -> None:
    for array in arrays.values():
        array.flags.writeable = False
    loaded(config, arrays)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_wrong_arrays_are_refused_and_nothing_changes(config: ModelConfig, arrays: Arrays, change: str) -> None:
    model = GPT(config)
    before = {name: tensor.clone() for name, tensor in model.named_arrays()}
    name = "ln_f.b"
    if change == "missing":
        del arrays[name]
    elif change == "unknown":
        arrays[name := "lm_head.w"] = np.zeros((2, 2))
    else:
        arrays[name] = np.zeros(config.n_embd + 1)
    with pytest.raises(MismatchError, match=name):
        model.load_arrays(arrays)
    for name, tensor in model.named_arrays():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_more_tokens_than_the_context_are_refused() -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=9)
    with pytest.raises(ContextError, match=r"9 tokens .* 8"):
        GPT(config)(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_have_as_many_parameters_as_counted(name: str) -> None:
    with torch.device("meta"):
        model = GPT(PUBLISHED[name])
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name].parameters


def test_it_compiles_without_a_break(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    model = loaded(config, arrays)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(torch.tensor(ids_BT)), model(torch.tensor(ids_BT)))
