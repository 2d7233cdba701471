"""The engines that can be measured: our own, and other installed software, on the same folder."""

from importlib.util import find_spec
from typing import Any

from gpt2 import backends, checkpoint
from gpt2.backends import Result, Want, Work
from gpt2.backends.seam import Draw
from gpt2.bench.limits import limits
from gpt2.bench.workload import Engine, Workload
from gpt2.errors import BackendError, MissingExtraError


class Ours:
    """A backend of this package, used only through its interface."""

    def __init__(self, folder: str, *, backend: str, weights: str, device: str, threads: int | None) -> None:
        source = checkpoint.read(folder).weights
        self._backend = backends.open(source, backend=backend, form=weights, device=device, threads=threads)
        self.name = f"gpt2 {self._backend.name} {self._backend.weights}"
        self.vocab_size = source.config.vocab_size
        self.n_positions = source.config.n_positions
        self._slots: list[int] = []
        self._next: list[int] = []

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        for slot in self._slots:
            self._backend.free(slot)
        self._slots = [self._backend.new() for _ in prompts]
        self._step(prompts)

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens):
            self._step([[token] for token in self._next])

    def limits(self, workload: Workload) -> dict[str, float]:
        """The most tokens per second that this machine allows, by figure; empty if unknown."""
        return limits(self._backend, workload)

    def _step(self, rows: list[list[int]]) -> None:
        likeliest = Want(draw=Draw(keys=[0], temperature=0))
        results = self._backend.step(
            [Work(slot=slot, tokens=tokens, want=likeliest) for slot, tokens in zip(self._slots, rows, strict=True)]
        )
        self._next = [_likeliest(result) for result in results]


def _likeliest(result: Result) -> int:
    if result.drawn_R is not None:
        return int(result.drawn_R[0])
    assert result.best_ids_RK is not None  # this backend does not draw tokens itself, but returns the best
    return int(result.best_ids_RK[0, 0])


# The packages of each peer, and how to open it. A name is an engine and, after the dash, the form of its weights.
_PEERS: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "transformers": (("transformers", "torch"), "Transformers", {"form": "fp32"}),
    "transformers-bf16": (("transformers", "torch"), "Transformers", {"form": "bf16"}),
    "transformers-compiled": (("transformers", "torch"), "CompiledTransformers", {"form": "bf16"}),
    "llama.cpp-q8_0": (("llama_cpp",), "LlamaCpp", {"form": "q8_0"}),
    "llama.cpp-q4_0": (("llama_cpp",), "LlamaCpp", {"form": "q4_0"}),
    "llama.cpp-bf16": (("llama_cpp",), "LlamaCpp", {"form": "bf16"}),
    "ctranslate2-int8": (("ctranslate2", "transformers", "torch"), "CTranslate2", {"form": "int8"}),
    "onnxruntime": (("onnxruntime",), "OnnxRuntime", {"form": "fp32"}),
    "onnxruntime-int8": (("onnxruntime", "onnx"), "OnnxRuntime", {"form": "int8"}),
    "openvino": (("openvino",), "OpenVino", {"form": ""}),
    "openvino-int8": (("openvino", "nncf"), "OpenVino", {"form": "int8"}),
    "openvino-int4": (("openvino", "nncf"), "OpenVino", {"form": "int4"}),
}
PEERS = tuple(_PEERS)


def missing_packages(peer: str) -> list[str]:
    """The packages that a peer needs and that are not installed."""
    return [package for package in _PEERS[peer][0] if find_spec(package) is None]


def open_engine(
    name: str, folder: str, *, backend: str, weights: str, device: str, threads: int | None
) -> tuple[Engine, str]:
    """An engine on a model folder, and its own name.

    Raises:
        MissingExtraError: its software is not installed.
        BackendError: there is no engine of that name.
    """
    if name == "gpt2":
        ours = Ours(folder, backend=backend, weights=weights, device=device, threads=threads)
        return ours, ours.name
    if name not in _PEERS:
        raise BackendError(f"there is no engine {name!r} to compare with. Choose of {', '.join(PEERS)}.")
    if missing := missing_packages(name):
        raise MissingExtraError(f"{name} cannot be compared with: {', '.join(missing)} is not installed. Install it.")
    from gpt2.bench import peers

    _, kind, settings = _PEERS[name]
    options: dict[str, Any] = {
        "threads": threads,
        **settings,
        **({"device": device} if kind.endswith("Transformers") else {}),
    }
    theirs = getattr(peers, kind)(folder, **options)
    return theirs, theirs.name
