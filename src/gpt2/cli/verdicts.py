"""The texts that `gpt2 detect` reads, and verdicts written for people."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import reading
from gpt2.errors import GenerationError

if TYPE_CHECKING:
    from gpt2.detect import Verdict

_MANY = 12  # from so many parts on, not each has a line

log = logging.getLogger("gpt2")

_FILE_NAME = re.compile(
    r"\S{1,250}\.(?:txt|md|text|jsonl?|html?|docx?|pdf)|[!-~]{0,125}[/\\][!-~]{0,125}", re.IGNORECASE
)


def texts_of(text: str | None, *, errors: str, least_tokens: int = 25) -> Iterator[tuple[str | None, str]]:
    """Name and text of each: a file, the text files of a folder, standard input, or the text itself."""
    path = Path(text) if text and text != "-" and len(text) < 256 and "\n" not in text else None
    if path is not None and os.path.exists(path):  # noqa: PTH110 - unlike Path.exists, false for names no file can have
        files = [path] if path.is_file() else sorted(path.rglob("*.txt")) + sorted(path.rglob("*.md"))
        if not files:
            raise click.UsageError(f"{path} holds no .txt or .md file: there is nothing to judge.")
        found = list(_texts_of_files(files, errors=errors))
        if not found:
            raise click.UsageError(f"Every .txt and .md file of {path} is empty: there is nothing to judge.")
        yield from found
        return
    if text and _FILE_NAME.fullmatch(text):
        raise click.UsageError(f"there is no file {text}, and a name by itself is too short to judge.")
    given = reading.read_text(text, errors=errors)
    if given is not None and not given.strip():
        raise GenerationError(
            f"There is nothing to judge: the text is empty. Give one of at least {least_tokens} tokens."
        )
    if given is None:
        raise click.UsageError("there is nothing to judge. Give TEXT, FILE, FOLDER, or standard input.")
    yield None, given


def _texts_of_files(files: list[Path], *, errors: str) -> Iterator[tuple[str, str]]:
    """Skip empty files among several, so that the others are still judged."""
    for file in files:
        found = reading.read_file(file, errors=errors)
        if len(files) > 1 and not found.strip():
            log.warning("%s is empty and left out", file)
            continue
        yield str(file), found


def told(where: str | None, done: int, of: int) -> str:
    """How many parts of a long text are read."""
    return f"{where or ''} part {done:,} of {of:,}".strip()


def told_size(where: str | None, text: str) -> str:
    """What will be read; a long text takes a while before its first part."""
    return f"{where or ''} {len(text):,} characters".strip()


def put_back(n_characters: int) -> str:
    """The sentence on characters that were normalised."""
    were = "character was" if n_characters == 1 else "characters were"
    return f"{n_characters:,} look-alike or invisible {were} normalised before reading."


def shown(found: "Verdict", where: str) -> str:
    """The verdict, its reason, and a line for each part; with many parts, only for those judged generated."""
    p_value = "" if found.p_value is None else f" (p = {found.p_value:.3g})"
    lines = [f"{where}{found.verdict}{p_value}: {found.reason}."]
    if found.n_normalised:
        lines.append(put_back(found.n_normalised))
    listed = [part for part in found.parts if len(found.parts) <= _MANY or part.verdict == "generated"]
    for part in listed:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in part.statistics.items())
        counts = "/".join(map(str, part.histogram))
        p_value = "" if part.p_human is None else f" p {part.p_human:.3g};"
        lines.append(
            f"  characters {part.start:,}-{part.end:,}: {part.verdict};{p_value} {numbers}; "
            f"top 10/100/1000/rest {counts}"
        )
    if others := Counter(part.verdict for part in found.parts if part not in listed):
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in others.items())
        lines.append(f"  {'other ' if listed else ''}parts: {counts}; --json has the numbers of each")
    return "\n".join(lines)
