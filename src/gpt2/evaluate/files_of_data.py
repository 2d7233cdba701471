"""Reading a benchmark's files, each checked against the hash of the file that its numbers were measured with."""

import codecs
import json
import shlex
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from gpt2.errors import DataError
from gpt2.evaluate.benchmark import Benchmark, DataFile
from gpt2.files import read_bounded, sha256_file

Example = TypeVar("Example")

_LIMIT_BYTES = 1 << 30
EXAMPLES = Path(__file__).with_name("examples")


def read_made_up(benchmark: Benchmark, chosen: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The text of each of a benchmark's made-up files, and their hashes.

    Raises:
        DataError: another set than the first was chosen, which has no made-up files.
    """
    for name in {file.when[0] for file in benchmark.files if file.when}:
        if benchmark.files_for(chosen) != benchmark.files_for(benchmark.defaults()):
            raise DataError(
                f"{benchmark.name}.{name}={chosen[name]} has no made-up examples. Leave it at "
                f"{benchmark.defaults()[name]}, or give the data."
            )
    paths = [EXAMPLES / name for name in benchmark.made_up]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return texts, {f"examples/{path.name}": sha256_file(path) for path in paths}


def missing_files(folder: Path, files: Sequence[DataFile]) -> list[DataFile]:
    """The files that are not in the folder."""
    return [file for file in files if not (folder / file.path).is_file()]


def check_files(folder: Path, benchmark: Benchmark, chosen: Mapping[str, str]) -> None:
    """Refuse missing files before the work begins.

    Raises:
        DataError: a file is not in the folder; the message says how to get it.
    """
    for file in missing_files(folder, benchmark.files_for(chosen)):
        raise DataError(f"{folder / file.path} is missing. {how_to_get(file, benchmark, folder)}")


def how_to_get(file: DataFile, benchmark: Benchmark, folder: Path, *, with_hash: bool = True) -> str:
    """What a file of a benchmark is and where it comes from, in a sentence or two."""
    hash_known = f" Its SHA-256 is {file.sha256}." if file.sha256 and with_hash else ""
    is_default = file in benchmark.files_for(benchmark.defaults())
    command = shlex.join(["gpt2", "download-data", benchmark.name, "--data", str(folder)])
    fetch = f" `{command}{'' if is_default else ' --every-choice'}` fetches it." if file.url else ""
    return f"It is {file.origin}.{hash_known}{fetch}"


def read_files(folder: Path, benchmark: Benchmark, chosen: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The text of each of a benchmark's files with these choices, and by path the SHA-256 of each.

    Raises:
        DataError: one is missing, or is not the intended file; the message names it, with both hashes.
        OSError: one cannot be read.
    """
    check_files(folder, benchmark, chosen)
    hashes: dict[str, str] = {}
    texts: list[str] = []
    for file in benchmark.files_for(chosen):
        path = folder / file.path
        if file.path not in hashes:
            hashes[file.path] = _checked_hash(path, file, how_to_get(file, benchmark, folder, with_hash=False))
        data = _member(path, file.member) if file.member else read_bounded(path, _LIMIT_BYTES)
        try:
            texts.append(_tail(data, file.tail_bytes))
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error}. {how_to_get(file, benchmark, folder)}") from None
    return texts, hashes


def read_examples(text: str, example_of: Callable[[Any], Example], expected: str) -> list[Example]:
    """The example of each line of JSON.

    Args:
        text: of the file.
        example_of: makes an example of a line's value; may raise any error if that is something else.
        expected: the message for that: "HellaSwag is not an item".

    Raises:
        DataError: a line is something else; the message has its number and its beginning.
    """
    examples: list[Example] = []
    for number, line in enumerate(StringIO(text), start=1):  # by newlines: a text may hold U+2028
        try:
            examples.append(example_of(json.loads(line)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise DataError(f"line {number} of {expected}: it begins {line[:40].rstrip()!r}.") from None
    return examples


def _checked_hash(path: Path, file: DataFile, advice: str) -> str:
    found = sha256_file(path)
    if file.sha256 and found != file.sha256:
        raise DataError(
            f"{path} is not the file that is meant: its SHA-256 is {found} ({path.stat().st_size:,} bytes), expected "
            f"{file.sha256}. It may be incomplete, or another edition. Move it away, and get it again. {advice}"
        )
    return found


def _member(path: Path, member: str) -> bytes:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(member) as inside:
                data = inside.read(_LIMIT_BYTES + 1)
        else:
            with tarfile.open(path) as archive:
                inside = archive.extractfile(member)
                data = b"" if inside is None else inside.read(_LIMIT_BYTES + 1)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{member} cannot be read from {path}: {error}. Fetch the archive again.") from None
    if len(data) > _LIMIT_BYTES:
        raise DataError(f"{member} in {path} is larger than {_LIMIT_BYTES:,} bytes. Fetch the archive again.")
    return data


def _tail(data: bytes, n_bytes: int | None) -> str:
    """The text of all bytes, or of the last `n_bytes`, without partial characters at either end."""
    if n_bytes is None:
        return data.decode("utf-8")
    data = data[-n_bytes:]
    while data and data[0] & 0xC0 == 0x80:
        data = data[1:]
    return codecs.getincrementaldecoder("utf-8")().decode(data)
