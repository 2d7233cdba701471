"""Examples to token shards: holds out documents, and marks the tokens to learn."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2 import files
from gpt2.data import write_shard
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer
from gpt2.train import state as states
from gpt2.train.feed import MARKS
from gpt2.train.finetune_text import Errors, passed_over, read_examples, sources

_OPENING_TOKENS, _LONGEST_OPENING_TOKENS = 12, 256
LEAST_TOKENS = 256  # from fewer a model only learns them by heart

Ids = NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Facts of a prepared text.

    Attributes:
        documents: to learn from.
        tokens: of these documents.
        wanted_tokens: of these tokens, those to learn and not only to read.
        validation_documents: held out whole; 0 if the end of the longest was cut off instead.
        validation_tokens: held out.
        opening: the beginning of a held-out text, or its prompt, for the model to continue.
        empty: examples skipped because their text or completion is empty or blank.
        passed_over: what the folder holds that is not read, for people.
    """

    documents: int
    tokens: int
    wanted_tokens: int
    validation_documents: int
    validation_tokens: int
    opening: str
    empty: int = 0
    passed_over: str = ""

    @property
    def size(self) -> str:
        """The amount of text to learn from, in words."""
        learned = "" if self.wanted_tokens == self.tokens else f", {self.wanted_tokens:,} of them completions"
        return f"{self.tokens:,} tokens in {counted(self.documents)}{learned}"

    def lines(self) -> list[str]:
        """For people."""
        if not self.validation_tokens:
            held_out = "nothing is held out"
        elif self.validation_documents:
            held_out = f"held out: {self.validation_tokens:,} tokens in {counted(self.validation_documents)}"
        else:
            whose = "its last" if self.documents == 1 else "the longest one's last"
            held_out = f"held out: {whose} {self.validation_tokens:,} tokens, since no whole document can be spared"
        said = [f"the text: {self.size}; {held_out}"]
        if self.empty:
            said.append(f"skipped: {self.empty:,} with an empty text or completion")
        if self.passed_over:
            said.append(self.passed_over)
        return said


def counted(n: int) -> str:
    """So many documents, in words."""
    return "1 document" if n == 1 else f"{n:,} documents"


def fingerprint(text: Path) -> str:
    """A hash over the bytes of all files that are read."""
    whole = hashlib.sha256()
    for name in sources(text):
        whole.update(bytes.fromhex(files.sha256_file(Path(name))))
    return whole.hexdigest()


def prepare_text(
    text: Path, out: Path, tokenizer: Tokenizer, *, field: str, validation: float, errors: Errors = "strict"
) -> Prepared:
    """Write a folder of token shards from a user's text, or check an existing folder against it.

    A folder of another text is replaced as long as no step has been trained on it.

    Args:
        text: a file or a folder.
        out: the folder to write.
        tokenizer: the model's.
        field: as for `read_examples`.
        validation: the share of the tokens to hold out, in whole documents.
        errors: as for `read_examples`.

    Raises:
        DataError: there is nothing to learn, or too little, or the text changed since the run began.
        FolderInUseError: another process trains on another text there.
    """
    settings = {"text": fingerprint(text), "field": field, "validation": validation, "tokenizer": tokenizer.hash}
    if errors != "strict":  # keeps runs from before this setting resumable
        settings["errors"] = errors
    if was_other := (out / files.MANIFEST_NAME).is_file():
        manifest = files.read_json(out / files.MANIFEST_NAME)
        if manifest.get("settings") == settings:
            return Prepared(**manifest["prepared"])
        _refuse_other(out.parent, text)
    documents, n_empty = _encode(text, tokenizer, field, errors)
    train, held_out, cut = _split(documents, validation)
    prepared = Prepared(
        documents=len(train),
        tokens=sum(d.ids.size for d in train),
        wanted_tokens=sum(int(d.wanted.sum()) for d in train),
        validation_documents=0 if cut else len(held_out),
        validation_tokens=sum(d.ids.size for d in held_out),
        opening=_opening((held_out or train)[0], tokenizer),
        empty=n_empty,
        passed_over=passed_over(text),
    )
    has_prompts = any(not d.wanted.all() for d in documents)
    with files.lock(out.parent), files.atomic_folder(out) as partial:
        if was_other:
            _refuse_other(out.parent, text)  # again, now that no other process can train there
        listed: dict[str, dict[str, Any]] = {}
        for split, part in (("train", train), ("validation", held_out)):
            if part:
                ids = np.concatenate([d.ids for d in part])
                listed |= _write(partial, split, ids, len(part), tokenizer.vocab_size)
                if has_prompts:
                    marks = np.concatenate([d.wanted for d in part]).astype(np.uint32)
                    listed |= _write(partial, f"{split}{MARKS}", marks, len(part), 2)
        files.write_json(
            partial / files.MANIFEST_NAME,
            {
                "format": "token shards",
                "version": 1,
                "eot": tokenizer.eot,
                "vocab_size": tokenizer.vocab_size,
                "tokenizer_hash": tokenizer.hash,
                "settings": settings,
                "prepared": dataclasses.asdict(prepared),
                "files": listed,
            },
        )
    return prepared


def _refuse_other(run_folder: Path, text: Path) -> None:
    if states.has_learned(run_folder):
        raise DataError(
            f"The run in {run_folder} cannot go on with {text}: it began with another text, or with another "
            f"vocabulary, share held out or way to read it. Choose a new folder (--out), or remove that one."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Encoded:
    """A document's ids, and whether each is learned.

    `read` is how many ids at the beginning are only read: the mark that begins a document, and its prompt.
    """

    ids: Ids
    wanted: NDArray[np.bool_]
    digest: bytes
    read: int


def _encode(text: Path, tokenizer: Tokenizer, field: str, errors: Errors) -> tuple[list[_Encoded], int]:
    """The documents, and how many examples were empty."""
    documents: list[_Encoded] = []
    n_empty = 0
    mark = np.array([] if tokenizer.eot is None else [tokenizer.eot], np.uint32)
    parts: list[Ids] = []
    n_read, digest = 0, b""

    def close() -> None:
        if parts:
            ids = np.concatenate(parts)
            wanted = np.ones(ids.size, bool)
            if n_read > mark.size:  # a prompt is only read; the mark before it is learned, as the last example's end
                wanted[mark.size if documents else 0 : n_read] = False
            documents.append(_Encoded(ids=ids, wanted=wanted, digest=digest, read=n_read))

    for example in read_examples(text, field=field, errors=errors):
        if example.begins:
            if not example.text.strip():
                n_empty += 1
                continue
            close()
            prompt = tokenizer.encode_array(example.prompt)
            parts = [mark, prompt]
            n_read = mark.size + prompt.size
            digest = hashlib.blake2b(f"{example.prompt}\0{example.text}".encode(), digest_size=8).digest()
        parts.append(tokenizer.encode_array(example.text))
    close()
    n_tokens = sum(d.ids.size for d in documents)
    if not n_tokens:
        raise DataError(f"There is nothing to learn: {text} holds no text. Name a file or folder with text in it.")
    if n_tokens < LEAST_TOKENS:
        raise DataError(
            f"{text} is too short to learn from: it has {n_tokens:,} tokens, and {LEAST_TOKENS:,} are the least. "
            f"Add text; or put it into a prompt, which needs no training."
        )
    return documents, n_empty


def _opening(document: _Encoded, tokenizer: Tokenizer) -> str:
    begin = 1 if tokenizer.eot is not None and document.ids[0] == tokenizer.eot else 0
    if document.read > begin:
        return tokenizer.decode(document.ids[begin : document.read].tolist()[-_LONGEST_OPENING_TOKENS:])
    # a cut text begins anywhere, so start after its first new line
    text = tokenizer.decode(document.ids[begin : begin + _LONGEST_OPENING_TOKENS].tolist())
    lines = [line for line in text.split("\n")[0 if begin else 1 :] if len(line.split()) >= 3]
    return tokenizer.decode(tokenizer.encode(lines[0] if lines else text)[:_OPENING_TOKENS])


def _split(documents: Sequence[_Encoded], validation: float) -> tuple[list[_Encoded], list[_Encoded], bool]:
    """Documents to learn from, documents held out, and whether the latter are only the end of the longest one.

    Their hashes decide which are held out, so the split is the same each time; the order is kept.
    """
    goal = validation * sum(d.ids.size for d in documents)
    if not goal:
        return list(documents), [], False
    chosen: set[int] = set()
    n_tokens = 0
    for i in sorted(range(len(documents)), key=lambda i: documents[i].digest):
        size = documents[i].ids.size
        if n_tokens < goal and n_tokens + size <= max(2 * goal, goal + LEAST_TOKENS):  # no document far too large
            chosen.add(i)
            n_tokens += size
    if chosen and len(chosen) < len(documents) and n_tokens >= goal / 2:
        return (
            [d for i, d in enumerate(documents) if i not in chosen],
            [d for i, d in enumerate(documents) if i in chosen],
            False,
        )
    left = max(2, round(goal))
    cuts: dict[int, int] = {}  # of the longest documents: where the held-out end begins
    for i in sorted(range(len(documents)), key=lambda i: -documents[i].ids.size):
        if left > 0 and (documents[i].ids.size > 1 or not cuts):
            cuts[i] = max(1, documents[i].ids.size - left)
            left -= documents[i].ids.size - cuts[i]
    parts = [(documents[i], at) for i, at in cuts.items()]
    return (
        [
            *(d for i, d in enumerate(documents) if i not in cuts),
            # cut documents go last, so that nothing follows a cut end
            *(dataclasses.replace(d, ids=d.ids[:at], wanted=d.wanted[:at]) for d, at in parts),
        ],
        [dataclasses.replace(d, ids=d.ids[at:], wanted=d.wanted[at:], read=0) for d, at in parts],
        True,
    )


def _write(folder: Path, split: str, ids: Ids, n_documents: int, vocab_size: int) -> dict[str, dict[str, Any]]:
    path = folder / f"{split}-00000.bin"
    write_shard(path, ids, vocab_size=vocab_size)
    facts = {"split": split, "tokens": int(ids.size), "documents": n_documents, "bytes": path.stat().st_size}
    return {path.name: {**facts, "sha256": files.sha256_file(path)}}
