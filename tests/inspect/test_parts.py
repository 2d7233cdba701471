"""Neurons, attribution and ablation equal the same made with hooks on transformers' modules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2 import backends, inspect
from gpt2.backends.definition import Definition
from gpt2.checkpoint import Weights, shapes
from gpt2.config import ModelConfig
from gpt2.errors import BackendError, ContextError, GenerationError
from gpt2.generation.scoring import logits
from gpt2.tokenizer import Tokenizer

TEXT, SOURCE, ANSWER, OTHER = "The cat sat on the", "The dog ran in the", " mat", " floor"
TOLERANCE = 2e-5  # of activations of size 1 to 10, and of log-probabilities; both sides in fp32
Change = Callable[[str, int, Any], Any]


@pytest.fixture(scope="session")
def definition(tiny_weights: Weights) -> Definition:
    return Definition(tiny_weights)


def hooked(referee: Any, ids: list[int], change: Change = lambda site, layer, value: value) -> Any:
    """Logits of the last token, float64, with `change` at what goes into the two projections of each layer."""
    import torch

    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, site=site, layer=layer: (change(site, layer, inputs[0]), *inputs[1:])
        )
        for layer, block in enumerate(referee.transformer.h)
        for site, module in (("heads", block.attn.c_proj), ("neurons", block.mlp.c_proj))
    ]
    with torch.no_grad():
        logits_V = referee(torch.tensor([ids])).logits[0, -1].double()
    for hook in hooks:
        hook.remove()
    return logits_V


def parts(referee: Any, ids: list[int]) -> dict[tuple[str, int], Any]:
    seen: dict[tuple[str, int], Any] = {}

    def keep(site: str, layer: int, value: Any) -> Any:
        seen[site, layer] = value.clone()
        return value

    hooked(referee, ids, keep)
    return seen


def close(got: NDArray[Any], wanted: Any, tolerance: float = TOLERANCE) -> None:
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


def test_neurons_are_those_of_transformers(definition: Definition, tokenizer: Tokenizer, referee: Any) -> None:
    seen = parts(referee, tokenizer.encode(TEXT))
    got = inspect.neurons(definition, tokenizer, TEXT)
    assert (got.layers, "".join(got.pieces)) == ((0, 1), TEXT)
    close(got.neurons_LTF, [seen["neurons", layer][0] for layer in (0, 1)])
    one = inspect.neurons(definition, tokenizer, TEXT, layer=1)
    close(one.of(1, 5), got.neurons_LTF[1, :, 5], 0)
    most = got.neurons_LTF[:, 1:].max(axis=1)
    assert got.strongest(3)[0] == np.unravel_index(most.argmax(), most.shape)
    assert [most[pair] for pair in got.strongest(9)] == sorted(most.ravel(), reverse=True)[:9]
    assert one.strongest(1)[0] == (1, most[1].argmax())


def test_the_logit_is_the_sum_of_its_parts(definition: Definition, tokenizer: Tokenizer, referee: Any) -> None:
    import torch

    ids = tokenizer.encode(TEXT)
    [answer], [other] = tokenizer.encode(ANSWER), tokenizer.encode(OTHER)
    logits_V = hooked(referee, ids)
    got = inspect.attribute(definition, tokenizer, TEXT, answer=ANSWER, against=OTHER)
    alone = inspect.attribute(definition, tokenizer, ids, answer=answer)
    assert (got.answer, got.against, alone.answer, alone.against) == (answer, other, answer, None)
    assert abs(got.total - float(logits_V[answer] - logits_V[other])) < TOLERANCE
    assert abs(alone.total - float(logits_V[answer])) < TOLERANCE
    assert sum(value for _, value in got.strongest(99)) == pytest.approx(got.total - got.biases, abs=TOLERANCE)
    named = {"token": got.token, "position": got.position, "mlp 0": got.mlps_L[0], "mlp 1": got.mlps_L[1]}
    named |= {f"head {layer}.{head}": got.heads_LH[layer, head] for layer in range(2) for head in range(2)}
    assert dict(got.strongest(99)) == named
    assert [value for _, value in got.strongest(99)] == sorted(named.values(), key=abs, reverse=True)
    assert got.strongest(4) == got.strongest(99)[:4]
    assert min(named.values()) < 0 < max(named.values())
    first = inspect.attribute(definition, tokenizer, TEXT, answer=ANSWER, against=0)
    assert abs(first.total - float(logits_V[answer] - logits_V[0])) < TOLERANCE

    # Each part by another way: through the norm with its divisor held still, in PyTorch and float64.
    seen, transformer = parts(referee, ids), referee.transformer
    stream: list[Any] = []
    hook = transformer.ln_f.register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0][0, -1].double()))
    with torch.no_grad():
        transformer(torch.tensor([ids]))
    hook.remove()
    [final_D] = stream
    divisor = torch.sqrt(final_D.var(unbiased=False) + transformer.ln_f.eps)
    w_D = (transformer.wte.weight[answer] - transformer.wte.weight[other]).double()

    def adds(vector_D: Any) -> float:
        return float((vector_D - vector_D.mean()) / divisor * transformer.ln_f.weight.double() @ w_D)

    with torch.no_grad():
        for layer, block in enumerate(transformer.h):
            attention, mlp = block.attn.c_proj.weight.double(), block.mlp.c_proj.weight.double()
            mixed_HK = seen["heads", layer][0, -1].double().reshape(2, -1)
            heads = [adds(mixed_HK[h] @ attention.reshape(2, -1, attention.shape[1])[h]) for h in range(2)]
            close(got.heads_LH[layer], heads)
            active_F = seen["neurons", layer][0, -1].double()
            close(got.neurons_LF[layer], [adds(active * mlp[f]) for f, active in enumerate(active_F)])
            assert abs(got.mlps_L[layer] - adds(active_F @ mlp + block.mlp.c_proj.bias.double())) < TOLERANCE
        assert abs(got.token - adds(transformer.wte.weight[ids[-1]].double())) < TOLERANCE
        assert abs(got.position - adds(transformer.wpe.weight[len(ids) - 1].double())) < TOLERANCE


def test_the_parts_make_the_logit_where_the_stream_is_as_small_as_the_norms_epsilon(tokenizer: Tokenizer) -> None:
    config, random = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8), np.random.default_rng(0)
    arrays = {name: random.standard_normal(shape, np.float32) for name, shape in shapes(config).items()}
    arrays |= {name: array * np.float32(1e-3) for name, array in arrays.items() if not name.startswith("ln_f")}
    small, ids = Weights.from_arrays(config, arrays), tokenizer.encode(TEXT)
    got = inspect.attribute(Definition(small), tokenizer, TEXT, answer=ANSWER)
    backend = backends.open(small, backend="reference")
    assert got.total == pytest.approx(float(logits(backend, ids)[-1, got.answer]), rel=1e-4)
    backend.close()


@pytest.mark.parametrize("source", [None, SOURCE], ids=["silent", "exchanged"])
def test_ablation_equals_hooks_on_transformers(
    definition: Definition, tokenizer: Tokenizer, referee: Any, source: str | None
) -> None:
    import torch

    ids, [answer] = tokenizer.encode(TEXT), tokenizer.encode(ANSWER)
    others = parts(referee, tokenizer.encode(source)) if source else {}

    def logprob(site: str = "", layer: int = -1, part: slice = slice(None)) -> float:
        def change(at: str, at_layer: int, value: Any) -> Any:
            if (at, at_layer) != (site, layer):
                return value
            value = value.clone()
            value[..., part] = others[site, layer][..., part] if others else 0
            return value

        return float(torch.log_softmax(hooked(referee, ids, change), -1)[answer])

    got = inspect.ablate(definition, tokenizer, TEXT, answer=ANSWER, source=source)
    before, width = logprob(), referee.config.n_embd // 2
    assert abs(got.before - before) < TOLERANCE
    assert "".join(got.source_pieces) == (source or "")
    heads = [[logprob("heads", layer, slice(h * width, h * width + width)) for h in range(2)] for layer in range(2)]
    close(got.heads_LH, np.array(heads) - before)
    close(got.mlps_L, np.array([logprob("neurons", layer) for layer in range(2)]) - before)


def test_exchanging_with_the_same_text_changes_nothing(definition: Definition, tokenizer: Tokenizer) -> None:
    got = inspect.ablate(definition, tokenizer, TEXT, answer=ANSWER, source=TEXT)
    assert not got.heads_LH.any()
    assert not got.mlps_L.any()


def test_what_cannot_be_taken_apart_is_refused_by_name(definition: Definition, tokenizer: Tokenizer) -> None:
    for look in (inspect.attribute, inspect.ablate):
        with pytest.raises(GenerationError, match="not one token"):
            look(definition, tokenizer, TEXT, answer="two words")
        with pytest.raises(GenerationError, match="empty"):
            look(definition, tokenizer, "", answer=ANSWER)
        with pytest.raises(GenerationError, match="not in the vocabulary"):
            look(definition, tokenizer, [60_000], answer=ANSWER)
        with pytest.raises(GenerationError, match="60000 of the answer is not in the vocabulary"):
            look(definition, tokenizer, TEXT, answer=60_000)
        with pytest.raises(ContextError, match="65 tokens"):
            look(definition, tokenizer, [1] * 65, answer=ANSWER)
    with pytest.raises(GenerationError, match="as many tokens"):
        inspect.ablate(definition, tokenizer, TEXT, answer=ANSWER, source="The dog")
    got = inspect.neurons(definition, tokenizer, TEXT, layer=1)
    with pytest.raises(GenerationError, match="no layer 0"):
        got.of(0, 1)
    with pytest.raises(GenerationError, match="no neuron 64"):
        got.of(1, 64)
    with pytest.raises(GenerationError, match="neuron must be a whole number"):
        got.of(1, [0, 1])  # type: ignore[arg-type]
    for found in (got, inspect.attribute(definition, tokenizer, TEXT, answer=ANSWER)):
        with pytest.raises(GenerationError, match="count must be at least 0: got -1"):
            found.strongest(-1)
    with pytest.raises(GenerationError, match=r"answer is empty: give one token"):
        inspect.attribute(definition, tokenizer, TEXT, answer="")


def test_more_neurons_than_memory_should_hold_are_refused(
    definition: Definition, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.inspect.mlp._MOST_BYTES", 5 * 64 * 4)
    with pytest.raises(GenerationError, match="Name layers"):
        inspect.neurons(definition, tokenizer, TEXT)
    assert inspect.neurons(definition, tokenizer, TEXT, layer=0).neurons_LTF.shape == (1, 5, 64)


def test_damaged_weights_are_refused_and_not_warned_of(tokenizer: Tokenizer) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8)
    arrays = {name: np.full(shape, np.inf, np.float32) for name, shape in shapes(config).items()}
    damaged = Definition(Weights.from_arrays(config, arrays))
    for look in (inspect.attribute, inspect.ablate):
        with pytest.raises(BackendError, match="damaged"):
            look(damaged, tokenizer, TEXT, answer=ANSWER)


@pytest.mark.parametrize("part", ["ln_f.g", "ln_f.b"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_damaged_last_norm_is_refused_and_gives_no_parts(tokenizer: Tokenizer, part: str, value: float) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8)
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes(config).items()}
    arrays[part][:] = value
    damaged = Definition(Weights.from_arrays(config, arrays))
    with pytest.raises(BackendError, match="damaged"):
        inspect.attribute(damaged, tokenizer, TEXT, answer=ANSWER)
