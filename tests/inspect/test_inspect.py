"""What is seen inside equals what transformers sees, on every backend."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2 import backends, inspect
from gpt2.backends import Backend
from gpt2.backends.head import Head
from gpt2.checkpoint import Weights, shapes
from gpt2.config import ModelConfig
from gpt2.errors import BackendError, ContextError, GenerationError
from gpt2.generation import Sampling, score
from gpt2.inspect import TokenView
from gpt2.tokenizer import Tokenizer

TEXT = "The cat sat on the mat, étoile 😀"
TOLERANCE = 2e-5  # of activations of size 1 to 10, and of log-probabilities; both sides in fp32


def hugging_face(referee: Any, ids: tuple[int, ...]) -> Any:
    import torch

    with torch.no_grad():
        return referee(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)


def close(got: NDArray[Any], wanted: Any, tolerance: float = TOLERANCE) -> None:
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_text_as_a_vector_is_the_last_hidden_state_pooled(
    backend: Backend, head: Head, tokenizer: Tokenizer, referee: Any, pooling: str
) -> None:
    texts = (TEXT, "Another, of another length.")
    got_ND = inspect.embed(backend, head, tokenizer, texts, pooling=pooling)
    assert got_ND.dtype == np.float32
    for got_D, text in zip(got_ND, texts, strict=True):
        states_TD = hugging_face(referee, tuple(tokenizer.encode(text))).hidden_states[-1][0]  # after the last norm
        close(got_D, states_TD.mean(0) if pooling == "mean" else states_TD[-1])
    close(inspect.embed(backend, head, tokenizer, TEXT, pooling=pooling), got_ND[0], 1e-6)
    if pooling == "mean":
        close(inspect.embed(backend, head, tokenizer, TEXT), got_ND[0], 1e-6)
    assert inspect.embed(backend, head, tokenizer, []).shape == (0, backend.config.n_embd)


def test_pooling_and_empty_texts_are_refused(backend: Backend, head: Head, tokenizer: Tokenizer) -> None:
    with pytest.raises(GenerationError, match="mean or last"):
        inspect.embed(backend, head, tokenizer, ["a"], pooling="max")
    with pytest.raises(GenerationError, match="empty"):
        inspect.embed(backend, head, tokenizer, ["a", ""])


def lens_of(referee: Any, ids: tuple[int, ...]) -> NDArray[np.float64]:
    """Log-probabilities at every depth by another way: hooks on transformers' blocks, in PyTorch and float64."""
    import torch

    seen: list[Any] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for block in referee.transformer.h
    ]
    last = referee.transformer.h[-1].register_forward_hook(
        lambda _, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        referee(torch.tensor([ids]))
        for hook in (*hooks, last):
            hook.remove()
        norm = referee.transformer.ln_f
        return np.stack(
            [
                torch.log_softmax(
                    torch.nn.functional.layer_norm(
                        x.double().reshape(len(ids), -1),
                        norm.weight.shape,
                        norm.weight.double(),
                        norm.bias.double(),
                        norm.eps,
                    )
                    @ referee.lm_head.weight.double().T,
                    -1,
                ).numpy()
                for x in seen
            ]
        )


def test_activations_are_those_of_transformers(backend: Backend, tokenizer: Tokenizer, referee: Any) -> None:
    got = inspect.activations(backend, tokenizer, TEXT)
    wanted = hugging_face(referee, got.ids).hidden_states
    assert got.depths == (0, 1, 2)
    close(got.residual_LTD[:2], np.concatenate(wanted[:2]))
    norm = referee.transformer.ln_f  # what transformers calls its last hidden state has gone through the last norm
    x_TD = got.residual_LTD[2]
    normed_TD = (x_TD - x_TD.mean(-1, keepdims=True)) / np.sqrt(x_TD.var(-1, keepdims=True) + norm.eps)
    close(normed_TD * norm.weight.detach().numpy() + norm.bias.detach().numpy(), wanted[2][0])
    one = inspect.activations(backend, tokenizer, list(got.ids), depths=1)
    close(one.residual_LTD, got.residual_LTD[1:2], 1e-6)
    assert (one.ids, one.pieces, one.depths) == (got.ids, got.pieces, (1,))


def test_attention_is_that_of_transformers(backend: Backend, tokenizer: Tokenizer, referee: Any) -> None:
    got = inspect.attention(backend, tokenizer, TEXT)
    close(got.weights_LHRT, np.concatenate(hugging_face(referee, got.ids).attentions))
    assert got.rows == range(len(got.ids))
    last = inspect.attention(backend, tokenizer, TEXT, layer=1, head=[1], last=3)
    assert (last.layers, last.heads, last.rows) == ((1,), (1,), range(len(got.ids) - 3, len(got.ids)))
    close(last.of(1, 1), got.of(1, 1)[-3:], 1e-6)


def test_the_logit_lens_equals_another(backend: Backend, head: Head, tokenizer: Tokenizer, referee: Any) -> None:
    got = inspect.logit_lens(backend, head, tokenizer, TEXT, best=5)
    wanted = lens_of(referee, got.ids)
    T = len(got.ids)
    for depth in range(3):
        logprobs = wanted[depth]
        close(got.logprobs_LR[depth], logprobs[np.arange(T - 1), got.ids[1:]])
        close(got.entropies_LT[depth], -(np.exp(logprobs) * logprobs).sum(-1))
        order = np.argsort(-logprobs, axis=-1, kind="stable")
        assert got.best_ids_LTK[depth].tolist() == order[:, :5].tolist()
        close(got.best_logprobs_LTK[depth], np.take_along_axis(logprobs, order[:, :5], 1))
        assert got.ranks_LR[depth].tolist() == [
            row.tolist().index(target) for row, target in zip(order, got.ids[1:], strict=False)
        ]
    some = inspect.logit_lens(backend, head, tokenizer, TEXT, depths=[2, 0], best=0)
    assert some.best_ids_LTK.shape == (2, T, 0)
    assert inspect.logit_lens(backend, head, tokenizer, TEXT).best_ids_LTK.shape == (3, T, 10)
    n_ids = backend.config.vocab_size
    every = inspect.logit_lens(backend, head, tokenizer, "The", depths=2, best=n_ids + 1)
    assert sorted(every.best_ids_LTK.ravel().tolist()) == list(range(n_ids))
    close(some.logprobs_LR, got.logprobs_LR[[2, 0]], 1e-6)


def test_patching_equals_hooks_on_transformers(tokenizer: Tokenizer, backend: Backend, referee: Any) -> None:
    import torch

    text, source, answer = "The cat sat on the", "The dog ran in the", " mat"
    if not backend.intervenes:
        with pytest.raises(BackendError, match="patched"):
            inspect.patch(backend, tokenizer, text, source=source, answer=answer)
        return
    got = inspect.patch(backend, tokenizer, text, source=source, answer=answer)
    ids, source_ids = tokenizer.encode(text), tokenizer.encode(source)
    assert (got.depths, got.positions, got.answer) == ((0, 1, 2), (0, 1, 2, 3, 4), tokenizer.encode(answer)[0])
    blocks = referee.transformer.h

    def run(tokens: list[int], *, depth: int = 0, position: int = -1, value: Any = None) -> tuple[float, list[Any]]:
        seen: list[Any] = []

        def change(x: Any) -> Any:
            if len(seen) == depth and value is not None:
                x = x.clone()
                x[0, position] = value
            seen.append(x)
            return x

        hooks = [
            block.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:])) for block in blocks
        ]
        last = referee.transformer.ln_f.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]),))
        with torch.no_grad():
            logits = referee(torch.tensor([tokens])).logits[0, -1].double()
        for hook in (*hooks, last):
            hook.remove()
        return float(torch.log_softmax(logits, -1)[got.answer]), seen

    before, _ = run(ids)
    after_source, values = run(source_ids)
    assert abs(got.before - before) < TOLERANCE
    assert abs(got.source - after_source) < TOLERANCE
    wanted = [
        [run(ids, depth=depth, position=position, value=values[depth][0, position])[0] for position in range(5)]
        for depth in range(3)
    ]
    close(got.after_LP, np.array(wanted))
    close(got.effect, np.array(wanted) - before)
    assert abs(got.effect[2, 4] - (after_source - before)) < TOLERANCE  # at the end everything is exchanged
    assert np.abs(got.effect[0, [0, 4]]).max() < TOLERANCE  # both texts have these tokens there
    assert np.abs(got.effect[2, :4]).max() < TOLERANCE  # after the last block nothing reaches the last token
    part = inspect.patch(backend, tokenizer, text, source=source, answer=got.answer, depths=1, positions=[3, 1])
    close(part.after_LP, got.after_LP[1:2, [3, 1]], 1e-5)


def test_where_texts_agree_up_to_a_token_patching_adds_nothing(tokenizer: Tokenizer, backend: Backend) -> None:
    if not backend.intervenes:
        return
    for text, source, alike in (
        (TEXT, TEXT, len(tokenizer.encode(TEXT))),
        ("The cat sat on the", "The cat sat in the", 3),
    ):
        got = inspect.patch(backend, tokenizer, text, source=source, answer=" mat")
        assert not got.effect[:, :alike].any()
        assert got.effect[:, alike:].any() == (text != source)


# --- one token -------------------------------------------------------------------------------------------------------


def view(backend: Backend, head: Head, tokenizer: Tokenizer, position: int, **settings: Any) -> TokenView:
    layer = settings.pop("layer", None)
    sampling = Sampling(**settings) if settings else None
    ids = tokenizer.encode(TEXT)
    return inspect.view_token(backend, head, tokenizer, ids, position, sampling=sampling, layer=layer, best=8)


def test_one_token_is_a_row_of_everything(backend: Backend, head: Head, tokenizer: Tokenizer) -> None:
    whole = inspect.logit_lens(backend, head, tokenizer, TEXT, best=8)
    for position in (1, 4, len(whole.ids) - 1, len(whole.ids)):
        got = view(backend, head, tokenizer, position, layer=1)
        row = position - 1
        assert [each.token for each in got.alternatives] == whole.best_ids_LTK[-1, row].tolist()
        close(np.array([each.logprob for each in got.alternatives]), whole.best_logprobs_LTK[-1, row], 1e-5)
        close(np.array([got.entropy]), whole.entropies_LT[-1, [row]], 1e-5)
        assert [depth.depth for depth in got.depths] == [0, 1, 2]
        for index, depth in enumerate(got.depths):
            assert [token for token, _ in depth.best] == whole.best_ids_LTK[index, row, :3].tolist()
            if position < len(whole.ids):
                assert depth.rank == whole.ranks_LR[index, row]
                assert depth.logprob == pytest.approx(whole.logprobs_LR[index, row], abs=1e-5)
            else:
                assert depth.rank is depth.logprob is None
        attention = inspect.attention(backend, tokenizer, whole.ids[:position], layer=1, last=1)
        assert got.attention_HS is not None
        close(got.attention_HS, attention.weights_LHRT[0, :, 0], 1e-6)
    assert view(backend, head, tokenizer, 3).attention_HS is None
    full = inspect.view_token(backend, head, tokenizer, [*[5] * 64, 0], 64)  # the whole context, and a token of id 0
    assert full.depths[-1].logprob == pytest.approx(
        score(backend, tokenizer, [*[5] * 64, 0], score_first=False).logprobs[-1], abs=1e-5
    )


def test_every_head_is_seen_where_heads_are_more_than_layers(tokenizer: Tokenizer) -> None:
    config, random = ModelConfig(n_layer=1, n_head=3, n_embd=6, n_positions=8), np.random.default_rng(0)
    arrays = {name: random.standard_normal(shape, np.float32) for name, shape in shapes(config).items()}
    weights = Weights.from_arrays(config, arrays)
    backend = backends.open(weights, backend="reference")
    every = inspect.attention(backend, tokenizer, [5, 6, 7], last=1)
    assert every.weights_LHRT.shape == (1, 3, 1, 3)
    got = inspect.view_token(backend, Head(weights), tokenizer, [5, 6, 7], 3, layer=0)
    assert got.attention_HS is not None
    close(got.attention_HS, every.weights_LHRT[0, :, 0], 1e-6)
    backend.close()


def test_after_the_filters_stands_what_is_sampled_from(backend: Backend, head: Head, tokenizer: Tokenizer) -> None:
    plain = view(backend, head, tokenizer, 4)
    assert plain.kept == tokenizer.vocab_size
    for each in plain.alternatives:
        assert each.filtered_logprob == pytest.approx(each.logprob, abs=1e-5)

    warm = view(backend, head, tokenizer, 4, temperature=0.5, top_k=3)
    squares = np.array([2 * each.logprob for each in plain.alternatives[:3]])
    assert warm.kept == 3
    close(
        np.array([each.filtered_logprob for each in warm.alternatives[:3]]),
        squares - np.log(np.exp(squares).sum()),
        1e-5,
    )
    assert [each.filtered_logprob for each in warm.alternatives[3:]] == [None] * 5

    once = view(backend, head, tokenizer, 4, no_repeat_ngram=1)
    before = set(tokenizer.encode(TEXT)[:4])
    assert once.kept == tokenizer.vocab_size - len(before)
    assert all((each.filtered_logprob is None) == (each.token in before) for each in once.alternatives)
    new = view(backend, head, tokenizer, 4, presence_penalty=2)  # which is of the continuation, and that is empty
    assert [each.filtered_logprob for each in new.alternatives] == [
        each.filtered_logprob for each in plain.alternatives
    ]

    greedy = view(backend, head, tokenizer, 4, temperature=0)
    assert (greedy.kept, greedy.alternatives[0].filtered_logprob) == (1, 0.0)
    first = plain.alternatives[0].token
    banned = view(backend, head, tokenizer, 4, top_k=1, logit_bias={first: -100})
    assert banned.alternatives[0].filtered_logprob is None
    assert banned.alternatives[1].filtered_logprob == 0.0


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_seen_is_refused_by_name(backend: Backend, head: Head, tokenizer: Tokenizer) -> None:
    long = [5] * 65
    with pytest.raises(GenerationError, match="empty"):
        inspect.activations(backend, tokenizer, "")
    for look in (inspect.activations, inspect.attention):
        with pytest.raises(ContextError, match=r"65 tokens, and the context is 64"):
            look(backend, tokenizer, long)
    with pytest.raises(ContextError, match="65 tokens"):
        inspect.logit_lens(backend, head, tokenizer, long)
    with pytest.raises(GenerationError, match=r"no depth 3: they are 0 to 2"):
        inspect.activations(backend, tokenizer, TEXT, depths=3)
    with pytest.raises(GenerationError, match=r"no layer 2: they are 0 to 1"):
        inspect.attention(backend, tokenizer, TEXT, layer=2)
    with pytest.raises(GenerationError, match=r"no head -1"):
        inspect.attention(backend, tokenizer, TEXT, head=-1)
    with pytest.raises(GenerationError, match=r"last 0 rows"):
        inspect.attention(backend, tokenizer, TEXT, last=0)
    for position in (0, len(tokenizer.encode(TEXT)) + 1):
        with pytest.raises(GenerationError, match=f"position {position}"):
            view(backend, head, tokenizer, position)
    with pytest.raises(ContextError, match="65 tokens"):
        inspect.view_token(backend, head, tokenizer, long, 65)
    with pytest.raises(GenerationError, match=r"1 and 2 tokens: The and The\| cat"):
        inspect.patch(backend, tokenizer, "The", source="The cat", answer=" a")
    with pytest.raises(GenerationError, match=r"not one token but 2:  a\| b"):
        inspect.patch(backend, tokenizer, "The", source="A", answer=" a b")


def test_none_at_all_and_the_same_twice_are_refused_by_name(backend: Backend, head: Head, tokenizer: Tokenizer) -> None:
    def lens(**asked: Any) -> object:
        return inspect.logit_lens(backend, head, tokenizer, TEXT, **asked)

    def attention(**asked: Any) -> object:
        return inspect.attention(backend, tokenizer, TEXT, **asked)

    def activations(**asked: Any) -> object:
        return inspect.activations(backend, tokenizer, TEXT, **asked)

    def patch(**asked: Any) -> object:
        return inspect.patch(backend, tokenizer, "The", source="A", answer=" a", **asked)

    asked_of = [(lens, "depths"), (attention, "layer"), (attention, "head"), (activations, "depths")]
    for look, name in (*asked_of, (patch, "depths"), (patch, "positions")):
        with pytest.raises(GenerationError, match=rf"no {name.removesuffix('s')} is named\. Leave it out for all"):
            look(**{name: []})
        with pytest.raises(GenerationError, match=rf"{name.removesuffix('s')} 0 cannot be had twice: got \(0, 0\)\."):
            look(**{name: [0, 0]})


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_slots_made_before_one_that_fails_are_given_back(
    backend: Backend, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Where memory ends in the middle: `backend` looks afterwards whether any is held."""
    fork, asked = backend.fork, 0

    def failing_fork(slot: int) -> int:
        nonlocal asked
        asked += 1
        if asked == failing:
            raise MemoryError
        return fork(slot)

    monkeypatch.setattr(backend, "fork", failing_fork)
    with pytest.raises(MemoryError):
        inspect.patch(backend, tokenizer, "The cat", source="The dog", answer=" a")


def test_heads_that_were_not_asked_for_are_named(backend: Backend, tokenizer: Tokenizer) -> None:
    looks = inspect.attention(backend, tokenizer, "The cat", layer=1, head=[0, 1])
    assert (looks.of(np.int64(1), 1) == looks.weights_LHRT[0, 1]).all()
    for layer, head, said in (
        (0, 0, "no layer 0 here: asked for was 1"),
        (1, 2, "no head 2 here: asked for were 0, 1"),
        (1, -1, "no head -1 here"),
        ("1", 0, "layer must be a whole number"),
    ):
        with pytest.raises(GenerationError, match=said):
            looks.of(layer, head)  # type: ignore[arg-type]


def test_more_attention_than_memory_should_hold_is_refused(
    backend: Backend, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.inspect.heads._MOST_BYTES", 4 * 4 * 10 * 10 - 1)
    with pytest.raises(GenerationError, match=r"2 layers of 2 heads .* Name layers"):
        inspect.attention(backend, tokenizer, [5] * 10)
    assert inspect.attention(backend, tokenizer, [5] * 10, last=9).weights_LHRT.shape == (2, 2, 9, 10)
