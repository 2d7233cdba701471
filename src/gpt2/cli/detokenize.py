"""`gpt2 detokenize`: token ids to text."""

import sys
from collections.abc import Iterator
from itertools import chain, islice

import click

from gpt2.cli import output
from gpt2.cli.options import Sectioned, output_options
from gpt2.cli.reading import BYTE_ORDER_MARK
from gpt2.cli.tokenize import tokenizer_of

_LINES_AT_ONCE = 1024


@click.command(cls=Sectioned)
@click.argument("ids", nargs=-1)
@click.option("--model", metavar="NAME|DIR", help="Whose vocabulary to use.  [default: the published one]")
@output_options
def detokenize(*, ids: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """Write the text of token IDS.

    Without IDS, read them from standard input, separated by spaces, commas or line ends, and write text as soon as
    it is complete. Bytes that form no character become U+FFFD.
    """
    from gpt2.tokenizer import IncrementalDecoder

    tokenizer = tokenizer_of(model)
    lines = iter(ids if ids and ids != ("-",) else sys.stdin)
    lines = chain([next(lines, "").removeprefix(BYTE_ORDER_MARK)], lines)
    if as_json:
        output.write_json({"text": tokenizer.decode(i for line in lines for i in _numbers(line))})
        return
    decoder = IncrementalDecoder(tokenizer)
    while batch := list(islice(lines, _LINES_AT_ONCE)):
        output.write("".join(decoder.push(i) for line in batch for i in _numbers(line)))
    output.write(decoder.finish(), end="\n" if output.is_terminal(sys.stdout) else "")  # for the shell's prompt


def _numbers(line: str) -> Iterator[int]:
    for word in line.replace(",", " ").replace("[", " ").replace("]", " ").split():
        try:
            if "_" in word or not word.isascii():  # int() would accept these
                raise ValueError
            yield int(word)
        except ValueError:
            raise click.UsageError(f"the ids cannot be read: got {word!r:.60}, and an id is a whole number.") from None
