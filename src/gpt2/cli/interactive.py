"""The prompt loop of `gpt2 generate --interactive`."""

import contextlib
import dataclasses
import io
import logging
import sys
from typing import TYPE_CHECKING

from gpt2.cli import output, reading

if TYPE_CHECKING:
    from gpt2.cli.continuations import Writer
    from gpt2.generation import Sampling

HELP = """Type a text and press Return to continue it. An empty line continues the last text.
:seed N   use seed N, then the next for each continuation; :seed alone shows the last one used
:help     show this help
:quit     quit, as Ctrl-D does; Ctrl-C stops a continuation"""

log = logging.getLogger("gpt2")


def converse(writer: "Writer", sampling: "Sampling", *, errors: str) -> None:
    """Continue each line typed until the input ends.

    Args:
        writer: writes the continuations as they come.
        sampling: with a seed; each turn takes the next seed, so that a repeated line gets another text.
        errors: what to do with input that is not UTF-8.

    Raises:
        DataError: piped input is not UTF-8.
    """
    with contextlib.suppress(ImportError):  # absent on Windows, where the console edits lines itself
        import readline  # noqa: F401  # pyright: ignore[reportUnusedImport] -- importing it gives input() line editing
    from gpt2.generation.settings import MAX_SEED

    typed = output.is_terminal(sys.stdin)
    if typed and errors == "replace" and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    piped = reading.lines_of(sys.stdin.buffer, "standard input", errors=errors)
    assert sampling.seed is not None
    seed, drawn, text = sampling.seed, sampling.seed, ""
    log.info("%s", HELP)
    while True:
        try:
            line = input("> ") if typed else next(piped)
        except (EOFError, StopIteration):
            output.write("\n" if typed else "")
            return
        except KeyboardInterrupt:
            if not typed:
                raise
            output.write("\n")
            continue
        command, _, argument = line.strip().partition(" ")
        if command in (":quit", ":q"):
            return
        if command == ":seed" and argument.isdecimal() and len(argument) <= 20 and int(argument) <= MAX_SEED:
            seed = int(argument)
        elif command == ":seed" and not argument and text:
            log.info("the last continuation used seed %d", drawn)
        elif command.startswith(":"):
            log.info("%s", HELP)
        else:
            pieces = [line or text]
            with contextlib.suppress(*[KeyboardInterrupt] if typed else []):  # Ctrl-C keeps what was written
                writer.one(
                    pieces[0], dataclasses.replace(sampling, seed=seed, truncate_prompt=True), tell=pieces.append
                )
            text, drawn = "".join(pieces), seed
            seed = (seed + 1) % (MAX_SEED + 1)
