"""`gpt2 corpus build|stats|show`: from raw pages to a cleaned corpus, and what is in it."""

import contextlib
import shlex
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2.cli import output
from gpt2.cli.options import Name, Place, Sectioned, option, output_options, wrong_usage
from gpt2.cli.status_line import StatusLine, duration
from gpt2.cli.stopping import resumable
from gpt2.errors import DataError, Gpt2Error

if TYPE_CHECKING:
    from gpt2.data.corpus.progress import BuildProgress


@click.group()
def corpus() -> None:
    """Build a cleaned corpus from raw pages and other sources, and inspect it."""


@corpus.command(cls=Sectioned)
@click.argument("sources", nargs=-1, type=Name(), metavar="[SOURCE]...")
@option("--out", type=Place(), required=True, metavar="DIR", help="Folder of the corpus.")
@option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="TOML file of the settings below and [[source]] tables.",
)
@option("--kind", default="auto", metavar="KIND", help="Kind of the SOURCEs.  [default: by each file's name]")
@option(
    "--licence",
    type=Name(),
    default="unknown",
    metavar="NAME",
    help="Licence of SOURCEs that state none.",
)
@option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes; they do not change the result.  [default: the usable cores]",
)
@option("--part", metavar="I/N", help="Read only the I-th of N shares of the inputs, on one of N machines.")
@option("--keep-work", is_flag=True, help="Keep intermediate files when the corpus is done.")
@option(
    "--language",
    "languages",
    multiple=True,
    metavar="CODE",
    section="Steps",
    help="Keep only this language, such as en. Repeatable.",
)
@option(
    "--rules",
    multiple=True,
    metavar="SET",
    section="Steps",
    help="Rule set, by name or path. Repeatable.  [default: four for web pages, none for others]",
)
@option("--no-rules", is_flag=True, section="Steps", help="Use no rule sets.")
@option("--min-characters", type=click.IntRange(min=0), metavar="N", section="Steps", help="Drop shorter documents.")
@option("--mask", type=click.Choice(["web", "all", "none"]), section="Steps", help="Mask personal data.")
@option("--drop-wikipedia/--keep-wikipedia", default=None, section="Steps", help="Drop Wikipedia pages.")
@option("--near/--no-near", "near", default=None, section="Steps", help="Drop near duplicates.  [default: drop]")
@option(
    "--decontaminate",
    type=Name(),
    multiple=True,
    metavar="PATH",
    section="Steps",
    help="Drop documents that share 13 consecutive words with this file or folder.",
)
@option(
    "--fetch-delay",
    "delay_seconds",
    type=float,
    metavar="SECONDS",
    section="Fetching",
    help="Pause between requests to one host.",
)
@option(
    "--fetch-seconds",
    "total_seconds",
    type=float,
    metavar="SECONDS",
    section="Fetching",
    help="Time limit for one page.",
)
@option(
    "--fetch-bytes", "max_bytes", type=int, metavar="N", section="Fetching", help="Size limit of one page, in bytes."
)
@option("--fetch-agent", "agent", metavar="NAME", section="Fetching", help="User agent to name to servers.")
@option("--fetch-cache", "cache", type=Name(), metavar="DIR", section="Fetching", help="Folder that caches responses.")
@option("--seed", type=int, metavar="N", section="Steps", help="Seed of the shuffle.")
@output_options
def build(
    *,
    sources: tuple[str, ...],
    out: Path,
    workers: int | None,
    part: str | None,
    keep_work: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Build a corpus from SOURCEs: cleaned, without duplicates, shuffled.

    A SOURCE is a file or folder: web archives (.warc, .arc, .wet), HTML, text, JSON Lines, Parquet, EPUB, MediaWiki
    dumps, lists of addresses (.urls), Reddit submissions. However a build stops, the same command resumes it.

    \b
        gpt2 corpus build pages/ --out my-corpus --language en
        gpt2 corpus stats my-corpus
        gpt2 corpus show gopher.max_duplicate_lines my-corpus
    """
    from gpt2.cli.corpus_options import settled, share
    from gpt2.data.corpus.build import build as build_corpus
    from gpt2.data.corpus.build import check_asked
    from gpt2.data.corpus.finished import write_page
    from gpt2.machine import usable_cores

    config, specs = settled(sources, **chosen)
    asked = share(part)
    with wrong_usage(DataError):
        check_asked(specs, asked)
    with resumable(f"{out} keeps what is done", sign=out / "settings.json"), StatusLine() as line:
        stats = build_corpus(
            specs,
            out,
            config=config,
            workers=workers or usable_cores(),
            keep_work=keep_work,
            part=asked,
            progress=lambda progress: line.show(lambda: _status(progress)),
        )
    if asked:
        return
    place = write_page(out, stats)
    if as_json:
        output.write_json({"out": str(out), **stats["contents"]})
    else:
        _say_built(stats, out, place)
    if not stats["contents"]["documents"]:
        raise DataError(
            f"The corpus is empty: no document was kept. {place} says what was read and why it was dropped."
        )


@corpus.command(cls=Sectioned)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@output_options
def stats(*, folder: Path, as_json: bool) -> None:
    """Show what went into each step of a corpus and what is in it."""
    from gpt2.data.corpus.finished import read_stats

    found = read_stats(folder)
    if as_json:
        output.write_json(found)
        return
    with _expected(folder):
        tables = list(_tables(found))
    output.write("\n\n".join(tables), end="\n")


@corpus.command(cls=Sectioned)
@click.argument("reason", metavar="REASON")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@output_options
def show(*, reason: str, folder: Path, as_json: bool) -> None:
    """Show a few random documents that a rule dropped, or a step kept ("kept: language")."""
    from gpt2.data.corpus.finished import read_samples

    with _expected(folder):
        handful = read_samples(folder, reason)
        texts = [_shown(one) for one in handful]
    if as_json:
        output.write_json(handful)
    else:
        output.write("".join(texts))


@contextlib.contextmanager
def _expected(folder: Path) -> Generator[None]:
    """Turn the errors of damaged statistics into a DataError."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, Gpt2Error):
            raise
        raise DataError(
            f"{folder} cannot be shown: its statistics are not what `gpt2 corpus build` writes ({error!r}). Name a "
            f"folder that it built."
        ) from None


def _shown(one: Mapping[str, Any]) -> str:
    place = one["address"] or f"{one['source']}: {one['where']}"
    return f"--- {place}\n    {one['characters']:,} characters. {one['detail']}\n{one['text']}\n\n"


def _status(progress: "BuildProgress") -> str:
    rate = progress.documents / max(progress.seconds, 1e-3)
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    done = f"{progress.tasks_done:,} of {progress.tasks:,}"
    return f"{progress.round}: {done} tasks, {progress.documents:,} documents, {rate:,.0f} documents/s{left}"


def _say_built(stats: Mapping[str, Any], out: Path, place: Path) -> None:
    from gpt2.data.corpus.overview import reasons

    contents = stats["contents"]
    documents = output.counted(contents["documents"], "document")
    output.write(f"{out}: {documents}, about {contents['tokens']:,} tokens. See {place}\n")
    for reason, count, _ in reasons(stats)[:1]:  # so that a rule that is wrong for this text is seen at once
        of, look = stats["account"]["entered"]["read"][0], shlex.join(["gpt2", "corpus", "show", reason, str(out)])
        output.write(f"{reason} dropped most, {count:,} of {of:,}: {look}\n")


def _tables(found: Mapping[str, Any]) -> Iterator[str]:
    from gpt2.data.corpus.overview import funnel, largest, lengths, reasons, tokens_in

    steps = [(step, n, tokens_in(found, step, size), size, gone) for step, n, size, gone in funnel(found)]
    yield _table(["step", "documents", "tokens, about", "bytes", "dropped"], steps)
    yield _table(["reason", "documents", "bytes"], reasons(found))
    for name in ("sources", "licences", "languages", "hosts"):
        if rows := largest(found["contents"][name], 10):
            yield _table([name, "documents", "bytes"], rows)
    if clusters := sorted((int(size), count) for size, count in found["clusters"].items()):
        cells = [[f"{size:,}", f"{count:,}"] for size, count in clusters]
        yield output.table([["in a near-duplicate cluster", "clusters"], *cells], right=range(2))
    yield _table(["characters", "documents"], lengths(found))


def _table(heading: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> str:
    cells = [[name, *("" if number is None else f"{number:,}" for number in numbers)] for name, *numbers in rows]
    return output.table([heading, *cells], right=range(1, len(heading)))
