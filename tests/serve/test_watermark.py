"""What a server writes with a key bears the mark, and nothing that it answers bears the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2.detect import read_mark
from gpt2.generation import ContextNoise
from gpt2.language_model import load


def test_what_is_served_bears_the_mark(running: Callable[..., Any], tiny_folder: Path) -> None:
    secret = bytes(range(32))
    model = load(tiny_folder, backend="reference")
    model.noise = ContextNoise(secret)
    server = running(model, name="tiny")
    try:
        body = {"prompt": [11, 12], "max_tokens": 50, "seed": 1, "ignore_eos": True}
        status, _, answer = server.request("POST", "/v1/completions", body)
        assert status == 200
        text = answer["choices"][0]["text"]
        assert read_mark(model.tokenizer.encode(text), ContextNoise(secret)).p_value < 1e-6
        assert read_mark(model.tokenizer.encode(text), ContextNoise(secret[::-1])).p_value > 0.001
        assert secret.hex() not in str(answer) + str(server.request("GET", "/metrics"))
    finally:
        server.stop()
