"""A setting in which a word is a few tokens, and the same random model as Hugging Face computes it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
import transformers

import gpt2
from gpt2.evaluate import Setting
from gpt2.language_model import LanguageModel

LogProbs = Callable[[Sequence[int]], torch.Tensor]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return gpt2.load(tiny_folder, backend="reference")


@pytest.fixture(scope="module")
def hf_logprobs(tiny_folder: Path) -> Iterator[LogProbs]:
    """Row i: the log-probabilities of the token after ids[i]."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    hf = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).eval()

    def logprobs(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(hf(torch.tensor([list(ids)])).logits[0].double(), -1)

    yield logprobs
    torch.set_num_threads(threads)


@pytest.fixture
def setting(model: LanguageModel) -> Callable[..., Setting]:
    def made(**changes: object) -> Setting:
        values = {"n_positions": 64, "stride": 16, "limit": None, "choices": {}} | changes
        return Setting(encode=model.tokenizer.encode, decode=model.tokenizer.decode, eot=50256, **values)

    return made
