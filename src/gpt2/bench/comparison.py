"""Measuring engines side by side, each in its own process, in turns."""

import contextlib
import logging
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpt2.bench.engines import PEERS, Ours, missing_packages, open_engine
from gpt2.bench.workload import Workload, run_once
from gpt2.errors import BackendError

log = logging.getLogger("gpt2")

# The shortest programs that say one token, as a user of each would write them.
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
    """What one engine did: the median of the rounds, and all of them.

    Attributes:
        engine: what it calls itself.
        tokens_per_second: by figure: decode, prefill, batch.
        rounds: the same of every round.
        peak_bytes: the most memory its process held, libraries included; 0 where the system does not say.
        start_seconds: from starting Python to one token generated, the median; None if not measured.
        settings: how our engine was opened.
        limits: tokens per second that this machine allows at most, by figure; empty where that is not known.
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
    backend: str = "auto",
    weights: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    workload: Workload | None = None,
    rounds: int = 3,
    starts: int = 3,
) -> list[Figures]:
    """Measure our engine, and `peers` beside it, on the model in `folder`; a peer that is not installed is left out.

    Args:
        folder: a Hugging Face folder, which every engine reads.
        peers: of `PEERS`, or `("all",)`. For those that are not installed a warning is logged.
        backend: of our engine; also `weights`.
        weights: the form our engine holds weights in.
        device: for all engines.
        threads: for all engines; None leaves it to each.
        workload: what is timed; one round before the first is not.
        rounds: how often; the median counts.
        starts: how often a cold start is timed; 0 leaves it out.

    Raises:
        BackendError: an engine could not be opened, or died.
    """
    workload = workload or Workload()
    wanted = PEERS if "all" in peers else peers
    for name in wanted:
        if name in PEERS and (missing := missing_packages(name)):
            log.warning("%s is left out: %s is not installed", name, " and ".join(missing))
    peers = [name for name in wanted if name not in PEERS or not missing_packages(name)]
    options = {"backend": backend, "weights": weights, "device": device, "threads": threads}
    theirs = replace(workload, contexts=())  # what a context costs is asked of our engine alone
    engines: dict[str, _Process] = {}
    names: dict[str, str] = {}
    try:
        for name in ("gpt2", *peers):  # one by one: two of them may make the same file of the folder
            engines[name] = _Process(name, str(folder), options, workload if name == "gpt2" else theirs)
            names[name] = str(engines[name].answer())
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
        for number in range(rounds + 1):
            for name, engine in engines.items():
                figures = engine.ask("round")
                if number:  # the first warms up
                    measured[name].append(figures)
        peaks = {name: int(engine.ask("peak")) for name, engine in engines.items()}
        most = {name: engine.ask("limits") for name, engine in engines.items()}
    finally:
        for engine in engines.values():
            engine.close()
    return [
        Figures(
            engine=names[name],
            tokens_per_second={
                figure: statistics.median(each[figure] for each in measured[name]) for figure in measured[name][0]
            },
            rounds=measured[name],
            peak_bytes=peaks[name],
            limits=most[name],
            start_seconds=start_seconds(name, folder, options, times=starts)
            if starts and start_program(name)
            else None,
            settings=options,
        )
        for name in engines
    ]


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
    """The shortest program of an engine that says one token, given its model file; empty where there is none."""
    return _START.get(engine.partition("-")[0], "") if engine != "transformers-bf16" else ""


class _Process:
    """One engine in a fresh process, which answers one question at a time."""

    def __init__(self, name: str, folder: str, options: Mapping[str, Any], workload: Workload) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, folder, dict(options), workload))
        self._process.start()
        theirs.close()

    def ask(self, question: str) -> Any:
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it said last is read
            self._pipe.send(question)
        return self.answer()

    def answer(self) -> Any:
        try:
            found = self._pipe.recv()
        except EOFError:
            raise BackendError(f"{self._name} ended before it answered; the memory may not have sufficed.") from None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, name: str, folder: str, options: dict[str, Any], workload: Workload) -> None:
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
