"""Servers as processes of their own: ours, llama.cpp's and transformers'."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference import random_folder
from serving.client import STREAMS

import gpt2
from gpt2.config import PUBLISHED


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        model: the name that it knows its model by.
        start_seconds: from starting the process to its first answer.
    """

    port: int
    pid: int
    model: str
    start_seconds: float

    def rss_mb(self) -> float:
        """Memory that the process holds at present."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


@contextlib.contextmanager
def model_folder(shape: str | None) -> Iterator[Path]:
    """Random weights in a published shape, or the model inside the package, as a Hugging Face folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / (shape or "gpt2-mini")
        if shape:
            random_folder(folder, PUBLISHED[shape])
        else:
            gpt2.load("gpt2-mini").save(folder)
        yield folder


@contextlib.contextmanager
def ours(folder: Path, weights: str, *arguments: str, kill: bool = False, **environment: str) -> Iterator[Running]:
    """`gpt2 serve`."""
    port = free_port()
    command = [sys.executable, "-m", "gpt2", "serve", "--model", f"m={folder}", "--weights", weights]
    command += ["--port", str(port), "--quiet", *arguments]
    with _process(command, port, "/health/ready", "m", kill=kill, **environment) as running:
        yield running


@contextlib.contextmanager
def llama(program: str, folder: Path, form: str = "q8_0") -> Iterator[Running]:
    """llama.cpp's own server, with a whole context for each stream, as ours has: the program, or xllamacpp's build."""
    port = free_port()
    found = gpt2.load(folder)
    file = str(folder.with_name("model.gguf"))
    found.save(file, format="gguf", weights=form)
    n_context, n_threads = STREAMS * found.config.n_positions, os.cpu_count() or 1
    command = [program, "-m", file, "--alias", "m", "--port", str(port), "-t", str(n_threads)]
    command += ["-np", str(STREAMS), "-c", str(n_context)]
    if Path(program).name.startswith("python"):
        command = [program, "-c", _XLLAMACPP, file, *map(str, (port, n_threads, STREAMS, n_context))]
    with _process(command, port, "/health", "m") as running:
        yield running


_XLLAMACPP = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.model_alias = {"m"}
settings.port, n_threads, settings.n_parallel, settings.n_ctx = map(int, sys.argv[2:])
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = n_threads
server = xllamacpp.Server(settings)
time.sleep(1e6)
"""


@contextlib.contextmanager
def transformers(python: str, folder: Path, *arguments: str) -> Iterator[Running]:
    """`transformers serve`."""
    port = free_port()
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [python, "-c", code, "serve", str(folder), "--port", str(port), *arguments]
    with _process(command, port, "/health", str(folder), HF_HUB_OFFLINE="1") as running:
        yield running


@contextlib.contextmanager
def _process(
    command: Sequence[str], port: int, probe: str, model: str, *, kill: bool = False, **environment: str
) -> Iterator[Running]:
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        try:
            while not _answers(port, probe):
                if process.poll() is not None:
                    log.seek(0)
                    said = log.read().decode(errors="replace")[-2000:]
                    raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said}")
                time.sleep(0.005)
            yield Running(port, process.pid, model, time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(100)[9:12] == b"200"
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
