"""The engines that can be measured: our own, and others on the same folder where they are installed."""

from importlib.util import find_spec
from typing import Any

import numpy as np

from gpt2 import backends, checkpoint
from gpt2.backends import Want, Work
from gpt2.bench.workload import Engine
from gpt2.errors import BackendError, MissingExtraError


class Ours:
    """A backend of this package, through the seam alone."""

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

    def _step(self, rows: list[list[int]]) -> None:
        work = [
            Work(slot=slot, tokens=tokens, want=Want(best=1)) for slot, tokens in zip(self._slots, rows, strict=True)
        ]
        results = self._backend.step(work)
        self._next = [int(result.best_ids_RK[0, 0]) for result in results if result.best_ids_RK is not None]


class Transformers:
    """Hugging Face transformers in fp32, its forward pass and cache called directly: less work than its `generate`."""

    def __init__(self, folder: str, *, device: str, threads: int | None) -> None:
        import torch
        import transformers

        if threads is not None:
            torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._torch: Any = torch
        self._device = "cpu" if device == "auto" else device
        loader: Any = transformers.AutoModelForCausalLM
        self._model: Any = loader.from_pretrained(folder, dtype=torch.float32).to(self._device).eval()
        self.name = f"transformers {transformers.__version__} fp32"
        self.vocab_size: int = self._model.config.vocab_size
        self.n_positions: int = self._model.config.n_positions
        self._cache: Any = None
        self._next: Any = None

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        self._cache = None
        self._step(self._torch.tensor(np.array(prompts), device=self._device))

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens):
            self._step(self._next)

    def _step(self, ids_BT: Any) -> None:
        with self._torch.inference_mode():
            answer = self._model(ids_BT, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache = answer.past_key_values
            self._next = answer.logits[:, -1].argmax(-1, keepdim=True)
            if self._device != "cpu":
                self._next.tolist()  # the clock would otherwise stop before the device does


def open_engine(
    name: str, folder: str, *, backend: str, weights: str, device: str, threads: int | None
) -> tuple[Engine, str]:
    """An engine on a model folder, and what it calls itself.

    Raises:
        MissingExtraError: its software is not installed.
        BackendError: there is no engine of that name.
    """
    if name == "gpt2":
        ours = Ours(folder, backend=backend, weights=weights, device=device, threads=threads)
        return ours, ours.name
    if name != "transformers":
        raise BackendError(f"there is no engine {name!r} to compare with. Choose transformers.")
    if find_spec("transformers") is None or find_spec("torch") is None:
        raise MissingExtraError("transformers is not installed, so it cannot be compared with. Install it with torch.")
    theirs = Transformers(folder, device=device, threads=threads)
    return theirs, theirs.name
