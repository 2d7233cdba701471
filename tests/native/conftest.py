import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2.errors import BackendError
from gpt2.native.library import Library


@pytest.fixture
def library() -> Library:
    try:
        return Library.load()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`counted_memory.c`, to be preloaded into a process."""
    compiler = shutil.which("cc") or shutil.which("c++")
    if platform.libc_ver()[0] != "glibc" or compiler is None:
        pytest.skip("needs a C compiler and glibc, whose malloc can be stood in for")
    if "LD_PRELOAD" in os.environ:
        pytest.skip("another malloc is preloaded")
    built = tmp_path_factory.mktemp("counter") / "counter.so"
    source = Path(__file__).with_name("counted_memory.c")
    subprocess.run([compiler, "-x", "c", "-O1", "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    return built


@pytest.fixture
def run_counted(library: Library, counter: Path) -> Callable[..., Any]:
    """Runs a file of tests by itself, with `counted_memory.c` preloaded, and reads the JSON that it prints."""

    def run(file: str, *arguments: str) -> Any:
        environment = {**os.environ, "LD_PRELOAD": str(counter)}
        command = [sys.executable, file, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def levels() -> list[str]:
    """What this machine can run; one name that skips where nothing was built."""
    try:
        return list(Library.load().levels)
    except BackendError:
        return ["portable"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "level" in metafunc.fixturenames:
        metafunc.parametrize("level", levels())
