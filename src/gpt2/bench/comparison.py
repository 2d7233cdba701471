"""Measuring engines side by side, each in its own process, in turns.

A peer that cannot be opened, fails or ends is left out with a warning, and the others continue, so their measurements
are not lost. Peers' output is hidden, except the last lines of one that ended.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpt2.bench.engines import PEERS, Ours, missing_packages, open_engine
from gpt2.bench.workload import Workload, run_once
from gpt2.errors import BackendError

log = logging.getLogger("gpt2")

# The shortest programs that print one token, as a user of each would write them.
_START = {
    "gpt2": (
        "import sys; from gpt2.cli.main import run;"
        "sys.exit(run(['generate', 'Once', '--max-tokens', '1', '--temperature', '0', '--quiet',"
        " '--model', sys.argv[1], *sys.argv[2:]]))"
    ),
    "transformers": (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]);"
        "ids = model.generate(**tokenizer('Once', return_tensors='pt'), max_new_tokens=1, do_sample=False);"
        "print(tokenizer.decode(ids[0]))"
    ),
    "llama.cpp": (
        "import sys; from llama_cpp import Llama; model = Llama(sys.argv[1], n_ctx=1024, verbose=False);"
        "print(model('Once', max_tokens=1, temperature=0)['choices'][0]['text'])"
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The figures of one engine: the median of the rounds, and every round.

    Attributes:
        engine: its own name.
        tokens_per_second: by figure: decode, prefill, batch.
        rounds: the same for every round.
        peak_bytes: of its process's memory, libraries included; 0 if the system does not report it.
        start_seconds: from starting Python to one token generated, the median; None if not measured.
        settings: with which our engine was opened.
        limits: the most tokens per second that this machine allows, by figure; empty if unknown.
    """

    engine: str
    tokens_per_second: Mapping[str, float]
    rounds: Sequence[Mapping[str, float]]
    peak_bytes: int
    start_seconds: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limits: Mapping[str, float] = field(default_factory=dict[str, float])


def compare(
    folder: Path,
    *,
    peers: Sequence[str] = (),
    peers_folder: Path | None = None,
    backend: str = "auto",
    weights: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    workload: Workload | None = None,
    rounds: int = 3,
    starts: int = 3,
) -> list[Figures]:
    """Measure our engine and peers on the model in `folder`; peers that are not installed or fail are left out.

    Args:
        folder: the model.
        peers: of `PEERS`, or `("all",)`. A warning is logged for each that is left out.
        peers_folder: a Hugging Face folder of the same model in fp32, which peers read and beside which they write
            their conversions; None if `folder` is one.
        backend: of our engine.
        weights: the form in which our engine holds weights.
        device: for all engines.
        threads: for all engines; None leaves it to each.
        workload: what to time, after one round of warm-up.
        rounds: how many; the median counts.
        starts: how many cold starts to time; 0: none.

    Raises:
        BackendError: our own engine could not be opened, or died.
    """
    workload = workload or Workload()
    peers = _installed(peers, device)
    options = {"backend": backend, "weights": weights, "device": device, "threads": threads}
    theirs = replace(workload, contexts=())  # only our engine is timed at long contexts
    models = {name: folder if name == "gpt2" else peers_folder or folder for name in ("gpt2", *peers)}
    engines: list[_Process] = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as opened:
        for name in models:  # one by one: two of them may convert to the same file
            if peers:
                log.info("opening %s", name)
            said = "" if name == "gpt2" else str(Path(scratch) / name)
            engine = _Process(name, str(models[name]), options, workload if name == "gpt2" else theirs, said)
            opened.callback(engine.close)
            engines.append(engine)
            with _left_out_if_it_fails(engine, engines):
                engine.full_name = str(engine.answer())
        for number in range(rounds + 1):
            if peers:
                log.info("round %d of %d", number, rounds) if number else log.info("warm-up round")
            for engine in tuple(engines):
                with _left_out_if_it_fails(engine, engines):
                    figures = engine.ask("round")
                    if number:  # the first is a warm-up
                        engine.rounds.append(figures)
        for engine in tuple(engines):
            with _left_out_if_it_fails(engine, engines):
                engine.peak_bytes, engine.limits = int(engine.ask("peak")), engine.ask("limits")
    for engine in engines if starts else ():
        if start_program(engine.name):
            try:
                engine.start_seconds = start_seconds(engine.name, models[engine.name], options, times=starts)
            except Exception as error:  # a peer's other figures still count
                if engine.name == "gpt2":
                    raise
                log.warning("the start of %s is not measured: %s", engine.name, error)
    return [engine.figures(options) for engine in engines]


def _installed(peers: Sequence[str], device: str) -> list[str]:
    """The requested peers whose packages are installed; opening refuses unknown names."""
    if "all" in peers:
        is_gpu = device.startswith("cuda")  # transformers-compiled needs CUDA graphs
        peers = [name for name in PEERS if is_gpu or name != "transformers-compiled"]
    found: list[str] = []
    for name in peers:
        if name in PEERS and (missing := missing_packages(name)):
            log.warning("%s is left out: %s is not installed", name, " and ".join(missing))
        else:
            found.append(name)
    return found


def start_seconds(engine: str, folder: Path, options: Mapping[str, Any], *, times: int) -> float:
    """From starting Python to one token on the screen: the median of `times`."""
    model = folder
    if engine.startswith("llama.cpp"):
        from gpt2.bench.peers import gguf_file

        model = gguf_file(folder, engine.partition("-")[2])
    command = [sys.executable, "-c", start_program(engine), str(model)]
    if engine == "gpt2":
        command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    taken: list[float] = []
    for _ in range(times):
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8", errors="replace")
        taken.append(time.perf_counter() - begin)
        if done.returncode:
            raise BackendError(f"{engine} could not be started cold: {done.stderr.strip()[-500:]}")
    return statistics.median(taken)


def start_program(engine: str) -> str:
    """The shortest program of an engine that prints one token, given its model file; empty if there is none."""
    return _START.get(engine.partition("-")[0], "") if engine == "transformers" or "transformers" not in engine else ""


class _Process:
    """One engine in a fresh process, which answers one question at a time; and its answers.

    Args:
        said: a file for its output; "": do not redirect it.
    """

    def __init__(self, name: str, folder: str, options: Mapping[str, Any], workload: Workload, said: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = self.full_name = name
        self.rounds: list[dict[str, float]] = []
        self.peak_bytes = 0
        self.limits: dict[str, float] = {}
        self.start_seconds: float | None = None
        self._said = said
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, folder, dict(options), workload, said))
        self._process.start()
        theirs.close()

    def ask(self, question: str) -> Any:
        with contextlib.suppress(BrokenPipeError):  # it has ended; read its last answer
            self._pipe.send(question)
        return self.answer()

    def answer(self) -> Any:
        try:
            found = self._pipe.recv()
        except (EOFError, ConnectionResetError):  # the latter if it ended before reading the question
            raise BackendError(f"{self.name} ended before it answered: {self._last_words()}.") from None
        if isinstance(found, Exception):
            raise found
        return found

    def figures(self, settings: Mapping[str, Any]) -> Figures:
        return Figures(
            engine=self.full_name,
            tokens_per_second={
                figure: statistics.median(each[figure] for each in self.rounds) for figure in self.rounds[0]
            },
            rounds=self.rounds,
            peak_bytes=self.peak_bytes,
            limits=self.limits,
            start_seconds=self.start_seconds,
            settings=settings,
        )

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _last_words(self) -> str:
        self._process.join(timeout=10)
        code = self._process.exitcode or 0
        ending = "the memory may not have sufficed"
        if code < 0 and code != -getattr(signal, "SIGKILL", 0):  # SIGKILL is the out-of-memory killer's
            ending = f"it was stopped by {signal.Signals(-code).name}"
        said = Path(self._said).read_text(encoding="utf-8", errors="replace").strip() if self._said else ""
        return f"{ending}; it said last: {said[-300:]}" if said else ending


@contextlib.contextmanager
def _left_out_if_it_fails(engine: _Process, engines: list[_Process]) -> Generator[None]:
    """Remove a peer that fails in the block from `engines`, with a warning; raise if our own engine fails."""
    try:
        yield
    except Exception as error:
        if engine.name == "gpt2":
            raise
        log.warning("%s is left out: %s", engine.name, error)
        engines.remove(engine)
        engine.close()


def _serve(pipe: Connection, name: str, folder: str, options: dict[str, Any], workload: Workload, said: str) -> None:
    if said:
        with Path(said).open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    try:
        engine, full_name = open_engine(name, folder, **options)
        pipe.send(full_name)
        while True:
            match pipe.recv():
                case "round":
                    pipe.send(run_once(engine, workload))
                case "limits":
                    pipe.send(engine.limits(workload) if isinstance(engine, Ours) else dict[str, float]())
                case _:
                    pipe.send(_peak_bytes())
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send(error)


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
