"""lm-evaluation-harness's own client, `local-completions`, against the server: equal to the model in process."""

import warnings
from typing import Any

import numpy as np
import pytest

from gpt2.language_model import LanguageModel

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PAIRS = [
    ("The capital of France is", " Paris."),
    ("2 + 2 =", " 4"),
    ("", "Once upon a time"),
    ("caf", "\u00e9 \U0001f600"),  # parts of characters
    ("The end.", "<|endoftext|>"),
    ("a" + " word" * 50, " more"),
]


@pytest.fixture(params=[{}, {"tokenized_requests": False}, {"num_concurrent": 4, "batch_size": 4}], ids=str)
def harness(request: pytest.FixtureRequest, tiny: Any) -> Any:
    """What `lm_eval --model local-completions` makes of `--model_args`."""
    pytest.importorskip("tenacity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("lm_eval.models.openai_completions")
    return module.LocalCompletionsAPI(
        base_url=f"{tiny.url}/v1/completions", model="tiny", tokenizer_backend="remote", max_length=64, **request.param
    )


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=number, metadata=("task", number, 1))
        for number, each in enumerate(arguments)
    ]


def test_log_likelihoods(harness: Any, tiny_model: LanguageModel) -> None:
    found = harness.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    tokenizer = tiny_model.tokenizer
    for (context, continuation), (logprob, is_greedy) in zip(PAIRS, found, strict=True):
        ids = tokenizer.encode(context or "<|endoftext|>", allow_special=True)
        n_context = len(ids)
        ids += tokenizer.encode(continuation, allow_special=True)
        rows_RV = tiny_model.logits(ids[:-1]).astype(np.float64)[n_context - 1 :]
        logprobs_RV = rows_RV - np.logaddexp.reduce(rows_RV, axis=-1, keepdims=True)
        ends = ids[n_context:]
        assert logprob == pytest.approx(logprobs_RV[np.arange(len(ends)), ends].sum(), abs=1e-4)
        assert is_greedy == (logprobs_RV.argmax(-1) == ends).all()


def test_rolling_windows_and_generation(harness: Any, tiny_model: LanguageModel) -> None:
    text = "The cat sat on the mat, and then it went away again."
    [found] = harness.loglikelihood_rolling(asked("loglikelihood_rolling", (text,)), disable_tqdm=True)
    assert found == pytest.approx(tiny_model.score(text).logprob, abs=1e-4)
    settings = {"until": ["zebra"], "max_gen_toks": 12, "do_sample": False}
    prompts = ["The cat", "Once upon a time"]
    texts = harness.generate_until(asked("generate_until", *((each, settings) for each in prompts)), disable_tqdm=True)
    assert texts == [tiny_model.generate(each, max_tokens=12, temperature=0).text for each in prompts]
