"""`gpt2 VERB`: the table of verbs, and the one place where an error becomes a message and an exit code.

A verb's module is imported only when the verb is called, so `gpt2 --help` imports only this file and click.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 stopped by SIGTERM with its state saved (training: by Ctrl-C too),
130 interrupted by Ctrl-C, 141 output pipe closed by its reader.
"""

import gc
import os
import re
import sys
from importlib import import_module

import click

from gpt2 import __version__
from gpt2.cli import output
from gpt2.cli.options import message_options
from gpt2.errors import Gpt2Error

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
NO_READER = 141  # a shell's exit code for SIGPIPE

# Section -> verb -> what it does. The module is gpt2.cli.VERB, its command has the verb's name (_ for -).
VERBS = {
    "Use a model": {
        "generate": "Continue a text.",
        "score": "Show how likely a text is, token by token.",
        "translate": "Translate a sentence.",
        "summarize": "Summarize an article.",
        "answer": "Answer a question.",
    },
    "Serve a model": {
        "serve": "Serve models over OpenAI's HTTP API, with a web page.",
    },
    "Judge a model": {
        "detect": "Detect generated text, at a given error rate.",
        "evaluate": "Run the paper's benchmarks, beside its numbers.",
        "verify": "Check that a model is intact and gives known answers.",
        "download-data": "Download the benchmarks' data.",
        "overlap": "Measure how much of a test set is in a training set.",
    },
    "Text and tokens": {
        "tokenize": "Convert text to token ids.",
        "detokenize": "Convert token ids to text.",
        "tokenizer": "Learn a new vocabulary.",
    },
    "Make a model": {
        "corpus": "Build a cleaned corpus from raw pages and more.",
        "prepare": "Turn text into token shards for training.",
        "train": "Train a model from a recipe.",
        "finetune": "Adapt a model to your own text.",
    },
    "Manage models": {
        "download": "Download a published model.",
        "models": "List the models on this machine, or remove one.",
        "convert": "Convert a model to another format.",
        "card": "Write a model card from recorded facts.",
    },
    "This machine": {
        "doctor": "Show what this machine offers and what will be used.",
        "bench": "Measure how fast models run here.",
    },
}


# Other programs' names for things -> ours.
ELSEWHERE = {
    "chat": "generate --interactive",
    "complete": "generate",
    "help": "--help",
    "list": "models",
    "pull": "download",
    "run": "generate",
    "sample": "generate",
    "version": "--version",
}

# Not verbs, since they return arrays or pictures -> the call in Python, and whether the page shows it.
IN_PYTHON = {
    "activations": ("activations(text)", False),
    "attention": ("attention(text)", True),
    "embed": ("embed(text)", False),
    "embeddings": ("embed(text)", False),
    "inspect": ("attention(text), .logit_lens(text) and more", True),
    "lens": ("logit_lens(text)", True),
    "logit-lens": ("logit_lens(text)", True),
    "patch": ("patch(text, source=…, answer=…)", False),
}

OPTIONS_ELSEWHERE = {
    "--learning-rate": "--lr",
    "--length": "--max-tokens",
    "--max-length": "--max-tokens",
    "--max-new-tokens": "--max-tokens",
    "--max-steps": "--epochs",
    "--n-predict": "--max-tokens",
    "--num-epochs": "--epochs",
    "--nsamples": "--n",
    "--num-return-sequences": "--n",
    "--num-samples": "--n",
    "--num-tokens": "--max-tokens",
    "--num-train-epochs": "--epochs",
    "--steps": "--epochs",
    "--temp": "--temperature",
    "--tokens": "--max-tokens",
    "-n": "--n",
}
_PROMPT_ELSEWHERE = ("--prefix", "--prompt", "--start")

GO_ON = ("train", "finetune", "prepare", "build", "convert", "evaluate", "download")  # these resume without an option


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is asked for, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of the table."""
        return [verb for verbs in VERBS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, or None if there is no such verb."""
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        return getattr(import_module(f"gpt2.cli.{name}"), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but for an unknown verb suggest the nearest ones."""
        if not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
            if args[0] in ELSEWHERE:
                near = [f"gpt2 {ELSEWHERE[args[0]]}"]
            advice = f"Did you mean {' or '.join(near)}?" if near else "`gpt2 --help` lists the verbs."
            if args[0] in IN_PYTHON:
                call, is_on_the_page = IN_PYTHON[args[0]]
                page = ", and the page of `gpt2 serve` shows it" if is_on_the_page else ""
                advice = f"In Python it is gpt2.load().{call}{page}: docs/inspect.md."
            raise click.UsageError(f"there is no verb {args[0]!r}. {advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, then the options, in the opposite order to click's."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section, from the table alone."""
        width = max(map(len, self.list_commands(ctx)))
        for section, verbs in VERBS.items():
            with formatter.section(section):
                formatter.write_dl([(verb.ljust(width), does) for verb, does in verbs.items()])


@click.group(
    cls=Verbs,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`gpt2 VERB --help` lists a verb's options. The default --model is the small one inside the package.",
)
@click.version_option(__version__, message="gpt2 %(version)s")
@message_options
def program() -> None:
    """Run, score, serve and train GPT-2 on the hardware you have."""


def main() -> None:
    """Run the command line of this process and end it with the exit code."""
    # NumPy's BLAS starts threads on import. By default they spin for a tenth of a second before they sleep, on cores
    # that the engine needs: make that 2^4 cycles, not 2^26.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # PyTorch's threads (libgomp's, on Linux) synchronise after every operation, and spin for milliseconds if one of
    # them has lost its core to another program: make that a tenth, then they sleep.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    code = run(sys.argv[1:])
    gc.freeze()  # else the collector scans all objects several times at exit: 20 ms
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run `gpt2 ARGUMENTS` and return its exit code; every failure becomes a message on standard error."""
    output.prepare_streams()
    if "_GPT2_COMPLETE" in os.environ:  # shell completion
        program.main(arguments, prog_name="gpt2")
    messages = output.Messages()
    try:
        with messages.shown():
            try:
                code = _invoke(arguments, messages)
                sys.stdout.flush()  # here, where a full disk or a closed pipe can still be handled
                return code
            except KeyboardInterrupt:
                output.complain("interrupted")
                return INTERRUPTED
            except Exception as error:
                return _failed(error, messages)
    finally:
        output.settle_streams()


def _invoke(arguments: list[str], messages: output.Messages) -> int:
    try:
        with program.make_context("gpt2", arguments or ["--help"], obj=messages) as context:
            program.invoke(context)
            return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        return WRONG_USAGE
    except click.ClickException as error:
        usage = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
        output.complain(f"error: {_sentence(_message(error))}", usage)
        return WRONG_USAGE if isinstance(error, click.UsageError) else FAILED


def _failed(error: Exception, messages: output.Messages) -> int:
    if isinstance(error, BrokenPipeError) and output.has_lost_reader():
        return NO_READER  # `gpt2 … | head`: nobody reads a message
    if messages.debug:
        import traceback

        output.complain("".join(traceback.format_exception(error)).rstrip())
    elif isinstance(error, Gpt2Error):
        output.complain(f"error: {error}")
    elif isinstance(error, OSError) and error.strerror:
        place = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
        output.complain(f"error: {place}{error.strerror}.")
    elif isinstance(error, MemoryError):
        output.complain("error: there is not enough memory. Choose a smaller model, or --weights int8.")
    else:
        output.complain(
            f"error: a fault in gpt2 itself: {type(error).__name__}: {error}. "
            f"Run again with --debug for the traceback, and report it."
        )
    return FAILED


def _message(error: click.ClickException) -> str:
    """Click's message in this program's style, with the one nearest option instead of an alphabetical list."""
    if isinstance(error, click.NoSuchOption):
        parameters = error.ctx.command.params if error.ctx else []
        asked = error.option_name.replace("_", "-")
        ours = OPTIONS_ELSEWHERE.get(asked, "")
        if any(ours in parameter.opts for parameter in parameters):
            return f"{error.message} Did you mean {ours}?"
        if asked in _PROMPT_ELSEWHERE and any(parameter.name == "prompt" for parameter in parameters):
            return f"{error.message} The prompt stands by itself, in quotes."
        if error.option_name.startswith("--resume") and error.ctx and error.ctx.command.name in GO_ON:
            return f"{error.message} The same command, given again, goes on where it stopped."
        if error.possibilities:
            return f"{error.message} Did you mean {error.possibilities[0]}?"
    message = error.format_message()
    if message.startswith("Got unexpected extra argument"):
        command = error.ctx.command if isinstance(error, click.UsageError) and error.ctx else None
        if command and command.name == "finetune":
            advice = "Put several files into a folder and name that; put quotes around a name that has blanks."
            return f"{message.rstrip('.')}. {advice}"
        if command and any(parameter.name in ("prompt", "text", "question") for parameter in command.params):
            return f'{message.rstrip(".")}. Put quotes around what has blanks: "Once upon a time".'
    for kind, ours in (("integer", "whole number"), ("float", "number")):
        message = re.sub(f"is not a valid {kind}( range)?", f"is not a {ours}", message)
    if decimal := re.search(r"'(-?\d+),(\d+)' is not a number", message):
        message = f"{message.rstrip('.')}. Write it with a point: {decimal[1]}.{decimal[2]}."
    return message


def _sentence(text: str) -> str:
    """Lower-case the first letter of click's message, to follow a colon; PROMPT, LoRA and others stay."""
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first == first.capitalize() else text
