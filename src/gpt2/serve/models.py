"""The models of a server, each with its engine."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from gpt2.errors import ConfigError, Gpt2Error, SettingError
from gpt2.generation import Scheduler
from gpt2.language_model import Draft, LanguageModel
from gpt2.serve.engine import Engine
from gpt2.serve.faults import ApiError, bad_request
from gpt2.serve.limits import Limits
from gpt2.serve.relay import ExactWork

if TYPE_CHECKING:
    from gpt2.detect import Calibration
    from gpt2.serve.schema import Prompt
    from gpt2.serve.vocabulary import Vocabulary


def release() -> str:
    """The package's version; "unknown" if it is not installed."""
    try:
        return version("gpt2kit")
    except PackageNotFoundError:
        return "unknown"


class ServedModel:
    """A model that answers requests.

    Attributes:
        name: by which requests ask for it.
        model: tokenizer, configuration and backend.
        kv_bytes: what keys and values may take.
        engine: the thread that computes.
        exact: runs work on the exact backend, in turns with the engine.
        grammarian: the thread that compiles grammars one at a time, so that nothing else waits for them.

    Args:
        max_sequences: computed at once.
        prefix_bytes: what cached prefixes of earlier requests may take.
        most_bytes: of keys and values, cached prefixes included; None: enough for `max_sequences` whole contexts and
            the prefixes. With less, a request begins once the most that it can need is free.
        draft: what drafts tokens for the model to verify, as in `LanguageModel.generate`.

    Raises:
        ConfigError: `most_bytes` do not hold one whole context.
        SettingError: the name cannot be printed.
        FormatError: the calibration in the model's folder cannot be read.
        GenerationError: the draft model has another vocabulary.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        name: str,
        limits: Limits | None = None,
        max_sequences: int = 16,
        prefix_bytes: int = 256 << 20,
        most_bytes: int | None = None,
        draft: Draft = "auto",
    ) -> None:
        if not name.isprintable():
            raise SettingError(f"No request can ask for a model called {name!r}. Name it, as in NAME=MODEL.")
        self.name = name
        self.model = model
        self.max_sequences = max_sequences
        self._calibration = model.calibration()
        self._vocabulary: Vocabulary | None = None
        self._describing = threading.Lock()  # the first grammars may come on several threads
        self.grammarian = ThreadPoolExecutor(1, f"gpt2 grammars {name}")
        self._limits = limits or Limits()
        self._prefix_bytes = prefix_bytes
        self._drafter = model.drafter(draft)
        self._whole_bytes = model.backend.slot_bytes(self.n_positions)
        if self._drafter is not None:
            self._whole_bytes += self._drafter.slot_bytes(self.n_positions)
        self.kv_bytes = max_sequences * self._whole_bytes + prefix_bytes
        self.bound(self.kv_bytes if most_bytes is None else most_bytes)
        self.created = int(time.time())

    def bound(self, most_bytes: int) -> None:
        """Let keys and values take no more than this. Call it before the engine starts: it makes a new one.

        Raises:
            ConfigError: this does not hold one whole context.
        """
        if most_bytes < self._whole_bytes:
            raise ConfigError(
                f"{self.name} cannot be served within {most_bytes:,} bytes of keys and values: one text of its context "
                f"of {self.n_positions:,} tokens takes {self._whole_bytes:,}. Allow at least that."
            )
        self.kv_bytes = min(self.kv_bytes, most_bytes)
        scheduler = Scheduler(
            self.model.backend,
            self.model.tokenizer,
            max_slots=self.max_sequences,
            kv_bytes=self.kv_bytes,
            prefix_bytes=min(self._prefix_bytes, self.kv_bytes),
            noise=self.model.noise,
            drafter=self._drafter,
        )
        self.engine = Engine(scheduler, name=self.name, limits=self._limits)
        self.exact = ExactWork(self.model, self.engine, most_waiting=self._limits.queue_requests)

    @property
    def n_positions(self) -> int:
        """Tokens of the context."""
        return self.model.config.n_positions

    @cached_property
    def system_fingerprint(self) -> str:
        """Identifies what computes the model: if it changes, the same seed may give another text."""
        backend = self.model.backend
        return f"gpt2-{release()}-{backend.name}-{backend.weights}-{backend.device}"

    @cached_property
    def token_names(self) -> list[str]:
        """The text of each id; if it is not whole characters, its bytes as OpenAI writes them, so that no two ids share
        a name."""
        return [_name(piece) for piece in self.model.tokenizer.vocabulary.tokens]

    @cached_property
    def calibration(self) -> "Calibration | None":
        """The calibration for `/v1/detect`, read from the model's folder at the start.

        Raises:
            MismatchError: it was made with another model.
        """
        if self._calibration is not None:
            self._calibration.check(self.model.fingerprint(), self.name)  # reads all weights, so not at the start
        return self._calibration

    @property
    def vocabulary(self) -> "Vocabulary":
        """What grammars are compiled against; the first grammar imports llguidance."""
        from gpt2.serve.vocabulary import Vocabulary

        with self._describing:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.model)
            return self._vocabulary

    @property
    def idle(self) -> bool:
        """Whether every request has been answered."""
        return self.engine.idle and self.exact.idle

    def break_off(self, reason: str) -> None:
        """End every open request with a 503 that says why."""
        self.engine.break_off(reason)
        self.exact.break_off(reason)

    async def stop(self) -> None:
        """End its threads and processes; it takes no requests after that."""
        self.grammarian.shutdown(wait=False, cancel_futures=True)
        with self._describing:
            if self._vocabulary is not None:
                self._vocabulary.trial.close()
        await self.engine.stop()

    def pieces(self, ids: Iterable[int]) -> dict[int, str]:
        """The name of each of these ids."""
        return {token: self.token_names[token] for token in sorted(set(ids))}

    def ids_of(self, prompt: "Prompt", param: str, *, parse_special: bool | None) -> list[int]:
        """The ids of a text, reading special tokens unless `parse_special` is False; or the given ids, checked.

        Raises:
            ApiError: 400: the text cannot be encoded, or an id does not exist.
        """
        if isinstance(prompt, str):
            try:
                return self.model.tokenizer.encode(prompt, allow_special=parse_special is not False)
            except Gpt2Error as error:
                raise bad_request(str(error), param) from None
        self.check_ids(prompt, param)
        return prompt

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Refuse ids that the tokenizer does not have.

        Raises:
            ApiError: 400, with the first such id.
        """
        most = min(self.model.tokenizer.vocab_size, self.model.config.vocab_size) - 1
        for token in ids:
            if token > most:
                raise bad_request(f"{param} cannot be used: there is no token {token}; ids are 0 to {most}.", param)

    def description(self) -> dict[str, Any]:
        """The model as `/v1/models` lists it."""
        config, backend = self.model.config, self.model.backend
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "gpt2",
            "max_model_len": config.n_positions,
            "meta": {
                "n_vocab": config.vocab_size,
                "n_ctx_train": config.n_positions,
                "n_embd": config.n_embd,
                "n_layer": config.n_layer,
                "n_head": config.n_head,
                "n_params": config.parameters,
                "weights": backend.weights,
                "backend": backend.name,
                "device": backend.device,
            },
        }


def bound_together(models: Sequence[ServedModel], most_bytes: int) -> None:
    """Let the keys and values of all models take no more than this, shared in proportion to what each would take.

    Raises:
        ConfigError: a share does not hold one whole context.
    """
    wanted_bytes = sum(model.kv_bytes for model in models)
    if wanted_bytes > most_bytes:
        for model in models:
            model.bound(most_bytes * model.kv_bytes // wanted_bytes)


class ModelSet:
    """Models by name; a request that names none gets the first."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models
        self._models = {model.name: model for model in models}
        assert len(self._models) == len(models), "two models of one name"

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def default(self) -> ServedModel:
        """The first."""
        return next(iter(self))

    def get(self, name: str | None) -> ServedModel:
        """The model of a name.

        Raises:
            ApiError: there is none (404); the message lists the models.
        """
        if name is None:
            return self.default
        found = self._models.get(name)
        if found is None:
            raise ApiError(
                404,
                f"There is no model {name[:200]!r} here. Ask for one of: {', '.join(map(repr, self._models))}.",
                param="model",
                code="model_not_found",
            )
        return found


def _name(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
