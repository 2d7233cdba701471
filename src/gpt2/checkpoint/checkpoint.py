"""The result of reading a model in any format."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.checkpoint.card import read_card
from gpt2.checkpoint.identity import fingerprint
from gpt2.checkpoint.weights import Weights
from gpt2.config import PUBLISHED_VOCAB_SIZE, ModelConfig
from gpt2.errors import ConfigError, FormatError, MismatchError
from gpt2.files import sha256_file

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

VOCABULARY_FILES = ("vocab.json", "encoder.json", "tokenizer.json")

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model as it was found.

    Attributes:
        weights: its arrays, mapped, and its configuration.
        path: the folder or file that was read.
        format: the name of the format, as `gpt2 convert` calls it.
        notes: what reading changed or left out, one line each: padding cut, masks dropped.
        vocabulary: makes the tokenizer, for a format that holds it in the file itself.
        sources: every file that the arrays come from, including an adapter's base.
        expanded_from: quantised forms that reading expands to fp32.
    """

    weights: Weights
    path: Path
    format: str
    notes: tuple[str, ...] = ()
    vocabulary: "Callable[[], Tokenizer] | None" = None
    sources: tuple[Path, ...] = ()
    expanded_from: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.weights.config

    @property
    def folder(self) -> Path:
        """The model's folder: the path, or the folder of the file at it."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def rounded_to(self) -> str | None:
        """The form or forms to which the stored weights were rounded; None for fp32."""
        return ", ".join(self.expanded_from or (form for form in self.weights.forms if form != "fp32")) or None

    def files_sha256(self) -> str:
        """One hash of all that determines the model's answers: the names and contents of its files, with its base's.

        If not all of them are in one folder, the configuration or the vocabulary may be outside what was read. Then the
        hash covers the values and the vocabulary too.
        """
        whole = hashlib.sha256()
        for file in filter(_changes_answers, self.sources):
            whole.update(f"{file.name} {sha256_file(file)}\n".encode())
        if not self.sources or any(file.parent != self.path for file in self.sources):
            whole.update(f"{fingerprint(self.weights)} {self.tokenizer().hash}\n".encode())
        return whole.hexdigest()

    def card(self) -> str | None:
        """The text of the model card beside the weights, if there is one."""
        return read_card(self.folder)

    def tokenizer(self) -> "Tokenizer":
        """The vocabulary beside the weights, or the published one for a model of its size without files of its own.

        Raises:
            MismatchError: the vocabulary has more ids than the model, or there is none.
            TokenizerError: the files cannot be read.
        """
        from gpt2.tokenizer import Tokenizer

        folder = self.folder
        if self.vocabulary is not None:
            tokenizer = self.vocabulary()
        elif has_vocabulary(folder):
            tokenizer = Tokenizer.from_folder(folder)
        elif self.config.vocab_size == PUBLISHED_VOCAB_SIZE:
            log.debug("%s has no vocabulary files: the published vocabulary is used", folder)
            tokenizer = Tokenizer.published()
        elif self.config.vocab_size < 256:
            raise MismatchError(
                f"The model in {folder} cannot be used: it has {self.config.vocab_size:,} tokens, and GPT-2's kind of "
                f"vocabulary has at least the 256 bytes. It seems to be a model of characters; train one on the same "
                f"text with `gpt2 finetune` or `gpt2 train`."
            )
        else:
            raise MismatchError(
                f"{folder} has no vocabulary: the model has {self.config.vocab_size:,} tokens, so the published "
                f"vocabulary of {PUBLISHED_VOCAB_SIZE:,} is not its own. Put vocab.json and merges.txt, or "
                f"tokenizer.json, beside the weights."
            )
        if tokenizer.vocab_size > self.config.vocab_size:
            raise MismatchError(
                f"The vocabulary in {folder} is not this model's: it has {tokenizer.vocab_size:,} ids, the model "
                f"{self.config.vocab_size:,}. Put the model's own vocabulary files there."
            )
        return tokenizer


def described_config(source: object, **sizes: Any) -> ModelConfig:
    """The configuration of the sizes that the file `source` gives.

    Raises:
        FormatError: they are invalid.
    """
    try:
        return ModelConfig(**sizes)
    except ConfigError as error:
        raise FormatError(f"{source}: {str(error)[:300]}") from error


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder holds vocabulary files in any form that we read."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def _changes_answers(file: Path) -> bool:
    """Whether a file can affect a model's answers: not the card or its pictures, nor the calibration for `detect`."""
    is_beside = file.name.startswith(".") or file.name in ("LICENSE", "calibration.json")
    return not is_beside and file.suffix not in (".md", ".svg")
