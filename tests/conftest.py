"""A model small enough for every test: random weights, the published vocabulary, a context of 64 tokens."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from gpt2 import checkpoint
from gpt2.checkpoint import Weights, shapes
from gpt2.config import ModelConfig
from gpt2.tokenizer import Tokenizer

# No test depends on the clock, and the same examples are drawn every time.
settings.register_profile("gpt2", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gpt2")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what is in its background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=64)


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    """Random weights in the shape `TINY`, large enough that some tokens are clearly likelier than others."""
    draw = np.random.default_rng(0)
    arrays = {
        name: (0.3 * draw.standard_normal(shape)).astype(np.float32) + name.endswith(".g")
        for name, shape in shapes(TINY).items()
    }
    return Weights.from_arrays(TINY, arrays)


@pytest.fixture(scope="session")
def tiny_folder(tiny_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a Hugging Face folder; read it, never write to it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.write_folder(folder, tiny_weights, TINY, Tokenizer.published())
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium. Of one module, since nothing else may run an event loop in the meantime."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: make browser installs Debian's")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=chromium, args=arguments, timeout=300_000)
        yield browser
        browser.close()
