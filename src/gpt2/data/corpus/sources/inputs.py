"""Names to inputs: finds the files, the kind of each, and the adapter that reads it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.documents import files_in, passed_over
from gpt2.errors import DataError, did_you_mean
from gpt2.files import is_utf8

Reader = Callable[[Path, OnDamage, OnRead], Iterator[Page]]

_PACKED = ("", ".gz", ".zst", ".lz4", ".bz2", ".xz")
# kind -> the endings of its files, and its adapter's module and function
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "warc": ((".warc", ".arc", ".wet"), "web:read_archive_pages"),
    "html": ((".html", ".htm", ".xhtml"), "web:read_html"),
    "jsonl": ((".jsonl", ".ndjson"), "texts:read_jsonl"),
    "text": ((".txt", ".text", ".md"), "texts:read_text"),
    "parquet": ((".parquet",), "texts:read_parquet"),
    "epub": ((".epub",), "epub:read_epub"),
    "mediawiki": ((".xml",), "mediawiki:read_mediawiki"),
    "addresses": ((".urls",), "addresses:read_addresses"),
    "reddit": ((".submissions",), "addresses:read_reddit"),
}
FETCHED = ("addresses", "reddit")
_NAMING = ("jsonl", "parquet")  # kinds in which a document may name its own source
_ASIDE = ("readme", "licence", "license")  # a folder's text files of these names are about it, not in it
_TOGETHER = {"html": 256, "epub": 16, "text": 64}  # files in one task, for kinds of small files


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """A source as the user names it.

    Attributes:
        path: a file, or a folder, which stands for its files of known kinds.
        name: of the source in the corpus; by default that of the file or folder.
        kind: one of `KINDS`; by default by each file's name.
        licence: of its texts, if they do not state their own.
        weight: how often to take each of its documents: 2 twice, 0.5 every other one.
        rules: names of rule sets in place of the configuration's; None: the configuration's.
    """

    path: str
    name: str = ""
    kind: str = "auto"
    licence: str = "unknown"
    weight: float = 1.0
    rules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.path:  # would mean the working directory
            raise DataError("A source cannot be read: it has no name. Name a file or a folder.")
        if self.kind != "auto" and self.kind not in KINDS:
            raise DataError(
                f"The source {self.path} has an unknown kind {self.kind!r}. {did_you_mean(self.kind, *KINDS)}"
            )
        for text in (self.name, self.licence):
            if not is_utf8(text):
                raise DataError(f"The source {self.path} cannot be said to be {text!r}: that is not UTF-8.")
        if not 0.0 <= self.weight <= 1000.0:
            raise DataError(f"The source {self.path} has a weight of {self.weight}: it must lie between 0 and 1,000.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What one task reads: a file, or some small files together.

    Attributes:
        spec: its source, with the name filled in.
        kind: of the files.
        files: their paths.
        labels: their names in messages and document numbers: relative to the source's folder, and numbered if two are
            equal.
        bytes: of all of them.
    """

    spec: SourceSpec
    kind: str
    files: tuple[str, ...]
    labels: tuple[str, ...]
    bytes: int


def find_inputs(specs: Sequence[SourceSpec]) -> list[Input]:
    """The inputs of all sources, in order. Folders are searched recursively and sorted, without hidden and read-me
    files.

    Raises:
        DataError: a source does not exist, is of unknown kind, has nothing to read, or is named twice.
    """
    inputs: list[Input] = []
    called: Counter[tuple[str, str]] = Counter()
    for spec in specs:
        path = Path(spec.path)
        if not path.exists():
            raise DataError(f"The source {path} cannot be read: there is no such file or folder.")
        named = dataclasses.replace(spec, name=spec.name or _stem(path))
        files = [path] if path.is_file() else files_in(path)
        groups: dict[str, list[Path]] = {}
        for file in files:
            kind = spec.kind if spec.kind != "auto" else _kind_of(file.name)
            is_aside = spec.kind == "auto" and kind == "text" and file != path and file.stem.lower() in _ASIDE
            if kind and not is_aside:
                groups.setdefault(kind, []).append(file)
        if not groups:
            known = ", ".join(ending for endings, _ in KINDS.values() for ending in endings)
            raise DataError(
                f"The source {path} holds nothing that can be read. Known are {known}; or name the kind (--kind)."
            )
        root = path.parent if path.is_file() else path
        for kind, members in groups.items():
            owner = named.name if kind not in _NAMING else ""
            size = _TOGETHER.get(kind, 1)
            for at in range(0, len(members), size):
                some = members[at : at + size]
                inputs.append(
                    Input(
                        spec=named,
                        kind=kind,
                        files=tuple(map(str, some)),
                        labels=tuple(_label(file.relative_to(root).as_posix(), owner, called) for file in some),
                        bytes=sum(file.stat().st_size for file in some),
                    )
                )
    counts = Counter(file for one in inputs for file in one.files)
    if twice := next((file for file, count in counts.items() if count > 1), None):
        raise DataError(f"{twice} is named twice among the sources. Name it once, with a weight of 2 if that is meant.")
    return inputs


def skipped(specs: Sequence[SourceSpec]) -> list[str]:
    """For each folder among the sources what it holds of unknown kinds, for people."""
    folders = {Path(spec.path): None for spec in specs if spec.kind == "auto" and Path(spec.path).is_dir()}
    return [said for folder in folders if (said := passed_over(folder, lambda name: bool(_kind_of(name))))]


def _label(name: str, owner: str, called: "Counter[tuple[str, str]]") -> str:
    """A file's name, numbered if an earlier file has it: no two documents may have the same number."""
    called[owner, name] += 1
    return name if called[owner, name] == 1 else f"{name} ({called[owner, name]})"


def _kind_of(name: str) -> str:
    name = name.lower()
    packed = next((end for end in _PACKED[1:] if name.endswith(end)), "")
    name = name.removesuffix(packed)
    if name.startswith("rs_") and "." not in name.removesuffix(".jsonl"):  # the names of Reddit's dumps
        return "reddit"
    return next((kind for kind, (endings, _) in KINDS.items() if name.endswith(endings)), "")


def _stem(path: Path) -> str:
    return path.resolve().name.split(".")[0] or path.resolve().name


def read_input(one: Input, on_damage: OnDamage, on_read: OnRead, **settings: object) -> Iterator[Page]:
    """The pages of an input, with the source's name and licence. A vanished file of a folder is reported as damage.

    Raises:
        DataError: a file that the user named has vanished, or may not be read.
        MissingExtraError: what reads this kind is not installed.
    """
    module, name = KINDS[one.kind][1].split(":")
    read: Reader = getattr(import_module(f"gpt2.data.corpus.sources.{module}"), name)
    for file, label in zip(one.files, one.labels, strict=True):
        try:
            for page in read(Path(file), on_damage, on_read, **settings):
                yield dataclasses.replace(
                    page,
                    where=f"{label}{page.where}",
                    source=page.source or one.spec.name,
                    licence=page.licence or one.spec.licence,
                )
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            why = "is no longer there" if gone else "cannot be read"
            # One of many files in a folder may be missing, but not a named one. Readers raise this for damage too.
            if (gone or isinstance(error, PermissionError)) and Path(one.spec.path) == Path(file):
                raise DataError(
                    f"The corpus cannot be built: {file} {why} ({error.strerror or error}). Put it right, and run "
                    f"again to go on."
                ) from error
            on_damage(Damage(file=file, offset=0, why=f"the file {why} ({error.strerror or error})"))
