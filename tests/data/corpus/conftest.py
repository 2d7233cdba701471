"""The web referees, where GPT2_WEB names the folder that has them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard


@pytest.fixture(scope="session")
def web() -> Path:
    """The folder of referees."""
    if "GPT2_WEB" not in os.environ:
        pytest.skip("GPT2_WEB does not name the folder of web-page test data")
    return Path(os.environ["GPT2_WEB"])


@pytest.fixture(scope="session")
def rows_of(web: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The objects of one of its JSON Lines files."""

    def read(name: str) -> list[dict[str, Any]]:
        with (web / name).open("rb") as file:
            data = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file).read()
        return [json.loads(line) for line in data.decode().split("\n") if line]

    return read
