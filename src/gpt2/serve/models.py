"""The models of a server, each with its engine."""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from gpt2.generation import Scheduler
from gpt2.language_model import LanguageModel
from gpt2.serve.engine import Engine
from gpt2.serve.faults import ApiError
from gpt2.serve.limits import Limits


class ServedModel:
    """A model that answers requests.

    Attributes:
        name: by which requests ask for it.
        model: tokenizer, configuration and backend.
        engine: the thread that computes.
        max_sequences: computed at once.
    """

    def __init__(self, model: LanguageModel, *, name: str, limits: Limits, max_sequences: int = 16) -> None:
        self.name = name
        self.model = model
        self.max_sequences = max_sequences
        self.engine = Engine(self._scheduler(), name=name, limits=limits)
        self.created = int(time.time())

    @property
    def n_positions(self) -> int:
        """Tokens of the context."""
        return self.model.config.n_positions

    @cached_property
    def token_names(self) -> list[str]:
        """The text of each id; of one that is part of a character its bytes, as OpenAI writes them, so that no two
        ids have one name."""
        return [_name(piece) for piece in self.model.tokenizer.vocabulary.tokens]

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

    def _scheduler(self) -> Scheduler:
        return Scheduler(self.model.backend, self.model.tokenizer, max_slots=self.max_sequences)


class ModelSet:
    """Models by name; the first is the one that a request gets that names none."""

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
            ApiError: there is none (404); the message lists those there are.
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
