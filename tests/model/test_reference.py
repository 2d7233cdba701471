from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2.config import ModelConfig
from gpt2.model import reference

Arrays = dict[str, NDArray[Any]]


def in_float32(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_logits_are_those_of_hugging_face(
    config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64], huggingface: Any, dtype: Any, tolerance: float
) -> None:
    wanted_BTV = huggingface(ids_BT)
    own = {name: array.astype(dtype) for name, array in arrays.items()}
    for ids_T, wanted_TV in zip(ids_BT, wanted_BTV, strict=True):
        logits_TV = reference.logits(config, own, ids_T)
        assert logits_TV.dtype == dtype
        np.testing.assert_allclose(logits_TV, wanted_TV, rtol=0, atol=tolerance)


def test_later_tokens_change_nothing_earlier(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    ids_T = ids_BT[0]
    before_TV = reference.logits(config, arrays, ids_T)
    for position in (1, len(ids_T) // 2, len(ids_T) - 1):
        other_T = ids_T.copy()
        other_T[position] = (other_T[position] + 1) % config.vocab_size
        after_TV = reference.logits(config, arrays, other_T)
        np.testing.assert_array_equal(after_TV[:position], before_TV[:position])
        assert not np.allclose(after_TV[position], before_TV[position])


def test_what_was_read_can_be_kept(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    kept: dict[tuple[str, int], NDArray[Any]] = {}

    def cache(site: str, layer: int, value: NDArray[Any]) -> NDArray[Any]:
        if site in ("keys", "values"):
            if (site, layer) in kept:
                value = np.concatenate([kept[site, layer], value], axis=1)
            kept[site, layer] = value
        return value

    ids_T = ids_BT[0]
    whole_TD = reference.hidden(config, arrays, ids_T)
    for start, stop in ((0, 5), (5, 6), (6, len(ids_T))):
        part_TD = reference.hidden(config, arrays, ids_T[start:stop], past=start, at=cache)
        np.testing.assert_allclose(part_TD, whole_TD[start:stop], rtol=0, atol=1e-10)


def test_everything_can_be_looked_at(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    seen: dict[tuple[str, int], NDArray[Any]] = {}

    def look(site: str, layer: int, value: NDArray[Any]) -> NDArray[Any]:
        seen[site, layer] = value
        return value

    hidden_TD = reference.hidden(config, arrays, ids_BT[0], at=look)
    np.testing.assert_array_equal(hidden_TD, reference.hidden(config, arrays, ids_BT[0]))
    T = ids_BT.shape[1]
    assert seen["residual", 0].shape == (T, config.n_embd)
    last = reference.layer_norm(
        seen["residual", config.n_layer], arrays["ln_f.g"], arrays["ln_f.b"], config.layer_norm_epsilon
    )
    np.testing.assert_array_equal(last, hidden_TD)
    for layer in range(config.n_layer):
        assert seen["keys", layer].shape == seen["values", layer].shape == (config.n_head, T, config.head_width)
        weights_HTS = seen["attention", layer]
        assert weights_HTS.shape == (config.n_head, T, T)
        np.testing.assert_allclose(weights_HTS.sum(-1), 1.0)
        assert (np.triu(weights_HTS, 1) == 0).all()


def test_a_patched_value_is_used(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    first_T, second_T = ids_BT[:2]
    embedding: list[NDArray[Any]] = []

    def take(site: str, layer: int, value: NDArray[Any]) -> NDArray[Any]:
        if site == "residual" and layer == 0:
            embedding.append(value)
        return value

    def put(site: str, layer: int, value: NDArray[Any]) -> NDArray[Any]:
        return embedding[0] if site == "residual" and layer == 0 else value

    of_first_TD = reference.hidden(config, arrays, first_T, at=take)
    np.testing.assert_array_equal(reference.hidden(config, arrays, second_T, at=put), of_first_TD)


def test_large_scores_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        weights = reference.softmax(np.array([[1e4, 1e4, -np.inf]], np.float32))
    np.testing.assert_array_equal(weights, [[0.5, 0.5, 0.0]])


def test_gelu_is_the_tanh_form() -> None:
    # Two of its values to 12 digits, by the paper's formula; the erf form differs in the fourth.
    np.testing.assert_allclose(reference.gelu(np.array([-1.0, 2.0])), [-0.158808009392, 1.954597694088], atol=1e-11)


def test_weights_are_not_changed(config: ModelConfig, arrays: Arrays, ids_BT: NDArray[np.int64]) -> None:
    own = in_float32(arrays)
    for array in own.values():
        array.flags.writeable = False
    reference.logits(config, own, ids_BT[0])
