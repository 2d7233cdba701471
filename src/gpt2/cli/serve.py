"""`gpt2 serve`: the HTTP server and its page."""

import contextlib
import dataclasses
import functools
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2.cli import output
from gpt2.cli.options import (
    FiniteRange,
    ModelChoice,
    Sectioned,
    Verb,
    draft_option,
    message_options,
    model_options,
    option,
    watermark_option,
)
from gpt2.machine import available_memory_bytes
from gpt2.serve.limits import Limits

if TYPE_CHECKING:
    from gpt2.generation import Noise

log = logging.getLogger("gpt2")


def _limit_options(verb: Verb) -> Verb:
    """Add `--max-…` for every field of `Limits`; the verb gets them as one `limits: Limits`."""

    @functools.wraps(verb)
    def with_limits(**values: Any) -> object:
        chosen = {limit.name: values.pop(f"max_{limit.name}") for limit in dataclasses.fields(Limits)}
        return verb(limits=Limits(**chosen), **values)

    decorated: Verb = with_limits
    for limit in reversed(dataclasses.fields(Limits)):
        kind = click.IntRange if limit.type is int else FiniteRange
        decorated = option(
            f"--max-{limit.name.replace('_', '-')}",
            section="Limits",
            type=kind(limit.metadata["least"]),
            default=limit.default,
            show_default=True,
            metavar="N" if limit.type is int else "X",
            help=f"{limit.metadata['help'][:1].upper()}{limit.metadata['help'][1:]}.",
        )(decorated)
    return decorated


@click.command(cls=Sectioned)
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 means all.")
@option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@option("--also", multiple=True, metavar="[NAME=]MODEL", help="Serve this model too. Repeatable.")
@option(
    "--sequences",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Texts computed at once, per model.",
)
@option(
    "--kv-mb",
    type=click.IntRange(1),
    metavar="N",
    help="Memory for keys and values, per model.  [default: room for --sequences whole texts and --prefix-mb, at most "
    "its share of nine tenths of the memory free once all are loaded]",
)
@option(
    "--prefix-mb",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    metavar="N",
    help="Part of that memory that caches beginnings of earlier texts.",
)
@draft_option
@option(
    "--api-keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of API keys, one per line; GPT2_API_KEYS adds more. All requests but health checks then need one.",
)
@option(
    "--allow-host", multiple=True, metavar="NAME", help="Another host name a loopback server answers to. Repeatable."
)
@option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Allow pages of this origin, such as https://example.org. Repeatable.",
)
@option("--certificate", type=click.Path(exists=True, path_type=Path), help="Certificate as a PEM file; turns on TLS.")
@option("--private-key", type=click.Path(exists=True, path_type=Path), help="The certificate's key as a PEM file.")
@option("--log-text", is_flag=True, help="Log prompts and continuations.")
@watermark_option
@option("--json", "as_json", section="Output", is_flag=True, help="Write the log as JSON, one object per line.")
@message_options
@_limit_options
@model_options
def serve(
    *,
    host: str,
    port: int,
    also: tuple[str, ...],
    sequences: int,
    kv_mb: int | None,
    prefix_mb: int,
    draft: str,
    api_keys: Path | None,
    allow_host: tuple[str, ...],
    cors_origin: tuple[str, ...],
    certificate: Path | None,
    private_key: Path | None,
    log_text: bool,
    watermark: "Noise | None",
    as_json: bool,
    limits: Limits,
    choice: ModelChoice,
) -> None:
    """Serve models over OpenAI's completions API, with a page at / to try them.

    Clients call a model by its name, its folder's name, or NAME in NAME=MODEL; requests that name none get --model.
    The first SIGTERM or Ctrl-C lets running requests finish; a second ends them.

    \b
        gpt2 serve
        gpt2 serve --model mine=./novel --also gpt2-mini --port 9000
        GPT2_API_KEYS=$(openssl rand -hex 32) gpt2 serve --host 0.0.0.0
    """
    from gpt2.serve import Options, ServedModel, Server, build_service, read_keys
    from gpt2.serve.models import bound_together

    messages = click.get_current_context().find_root().obj
    if isinstance(messages, output.Messages):
        messages.form = "json" if as_json else "stamped"
        messages.speak_for_all()
    keys = read_keys(api_keys, os.environ.get("GPT2_API_KEYS"))
    options = Options(
        host=host,
        port=port,
        keys=keys,
        hosts=allow_host,
        origins=cors_origin,
        certificate=certificate,
        private_key=private_key,
    )
    options.check_address()
    if not keys and not options.is_loopback:
        log.warning("anyone who can reach %s can use this server: set keys with --api-keys", host)
    with contextlib.ExitStack() as stack:
        served: list[ServedModel] = []
        for name, source in map(_named, (choice.model, *also)):
            if name in [other.name for other in served]:
                raise click.UsageError(f"two models are called {name!r}: name one of them, as in other={source}.")
            model = stack.enter_context(dataclasses.replace(choice, model=source).load())
            if watermark is not None:
                model.noise = watermark
            served.append(
                ServedModel(
                    model,
                    name=name,
                    limits=limits,
                    max_sequences=sequences,
                    prefix_bytes=prefix_mb * 1_000_000,
                    most_bytes=None if kv_mb is None else kv_mb * 1_000_000,
                    draft=draft,
                )
            )
        if kv_mb is None and (free_bytes := available_memory_bytes()):  # 0 is unknown
            bound_together([each for each in served if each.model.device == "cpu"], free_bytes * 9 // 10)
        for each in served:
            log.info(
                "%s: %s by %s on %s, %d texts at once, keys and values up to %s MB",
                each.name,
                each.model.backend.weights,
                each.model.backend.name,
                each.model.device,
                sequences,
                f"{each.kv_bytes / 1e6:,.0f}",
            )
        service = build_service(served, limits=limits, log_text=log_text)
        server = Server(service, options)
        gc.collect()
        gc.freeze()  # garbage collections need not scan what is loaded while requests wait
        code = server.run_until_ended(lambda: log.info("listening on %s", server.address))
        if any(each.engine.is_running for each in served):  # hangs in a step: what it uses must stay open
            logging.shutdown()
            os._exit(code)
    if code:
        raise click.exceptions.Exit(code)


def _named(model: str) -> tuple[str, str]:
    """The name and the model of NAME=MODEL, or of a model alone, whose name is the last part of a folder's path."""
    name, equals, source = model.partition("=")
    if equals and name and "/" not in name and not Path(model).exists():
        return name, source
    return (Path(model).resolve().name if Path(model).exists() else model), model
