"""Every backend over one small model, and the same model in Hugging Face's transformers as the referee."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2 import backends
from gpt2.backends import Backend
from gpt2.backends.head import Head
from gpt2.checkpoint import Weights
from gpt2.errors import BackendError
from gpt2.tokenizer import Tokenizer

NAMES = ["reference", "torch", "native"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


@pytest.fixture(scope="session")
def head(tiny_weights: Weights) -> Head:
    return Head(tiny_weights)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest, tiny_weights: Weights) -> Iterator[Backend]:
    try:
        opened = backends.open(tiny_weights, backend=request.param, form="fp32", threads=1)
    except BackendError as error:
        if request.param != "native":
            raise
        pytest.skip(str(error))
    yield opened
    assert opened.bytes() == 0  # every look gives its slots back
    opened.close()


@pytest.fixture(scope="session")
def referee(tiny_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel.from_pretrained(tiny_folder, attn_implementation="eager").eval()
