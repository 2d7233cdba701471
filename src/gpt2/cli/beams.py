"""`gpt2 generate --beams`: the likeliest continuations by beam search."""

import functools
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gpt2.cli import output
from gpt2.cli.options import FiniteRange, Verb, option
from gpt2.errors import GenerationError

if TYPE_CHECKING:
    from gpt2.generation import Beam, Sampling
    from gpt2.language_model import LanguageModel

# Options of sampling, or of showing texts one by one, which do not apply to a search.
_WITHOUT_SAY = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "best_of", "watermark", "draft"),
    *("stop", "logprobs", "prompt_logprobs", "interactive"),
)

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The width of a search, and whether it favours longer texts (above 0) or shorter ones."""

    beams: int
    length_penalty: float


def beam_options(verb: Verb) -> Verb:
    """Add --beams and --length-penalty; the verb gets `search: Search`, or None without a search."""

    @option(
        "--beams",
        section="Beam search",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Search for the likeliest text with N beams instead of sampling; write the best --n.",
    )
    @option(
        "--length-penalty",
        section="Beam search",
        type=FiniteRange(-30, 30),
        default=1.0,
        show_default=True,
        metavar="X",
        help="Divide a text's log-probability by its length to this power; above 0 favours longer texts.",
    )
    @functools.wraps(verb)
    def with_search(*, beams: int | None, length_penalty: float, **rest: Any) -> object:
        context = click.get_current_context()
        given = {
            param.name: max(param.opts, key=len)
            for param in context.command.params
            if param.name and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        }
        if beams is None:
            if "length_penalty" in given:
                raise click.UsageError("--length-penalty is of beam search: give --beams, or leave it out.")
            return verb(search=None, **rest)
        if without_say := [given[name] for name in _WITHOUT_SAY if name in given]:
            raise click.UsageError(f"--beams cannot go with {without_say[0]}: a search draws nothing. Leave one out.")
        if beams < rest["sampling"].n:
            raise click.UsageError(f"--beams must be at least --n, which are chosen from them: got {beams}.")
        return verb(search=Search(beams=beams, length_penalty=length_penalty), **rest)

    return with_search


def write_likeliest(
    model: "LanguageModel",
    prompts: Iterable[str],
    sampling: "Sampling",
    search: Search,
    *,
    as_json: bool,
    numbered: bool,
) -> None:
    """Write the likeliest continuations of each prompt, best first; each text but the first after a line of ---.

    Args:
        numbered: errors name the number of their prompt.

    Raises:
        ContextError, GenerationError: as `LanguageModel.beam_search`; what was written before stays.
    """
    from gpt2.generation import Beam

    nothing = Beam(ids=(), text="", score=0.0, finish_reason="length")  # if no token is asked for or fits
    n_tokens, n_written, number, begin = 0, 0, 0, time.perf_counter()
    for number, prompt in enumerate(prompts, start=1):
        try:
            found = model.beam_search(prompt, sampling, beams=search.beams, length_penalty=search.length_penalty)
            found = found or [nothing] * sampling.n
        except GenerationError as error:
            raise type(error)(f"prompt {number:,}: {error}" if numbered else str(error)) from error
        n_tokens += sum(len(beam.ids) for beam in found)
        if as_json:
            output.write_json({"prompt": prompt, "samples": [_described(beam) for beam in found]})
            continue
        for beam in found:
            output.write(f"---\n{beam.text}\n" if n_written else f"{beam.text}\n")
            n_written += 1
    if not number:
        log.warning("nothing was written: the file holds no prompt")
    if n_tokens:
        log.info(
            "%s in %.2f s, with %d beams", output.counted(n_tokens, "token"), time.perf_counter() - begin, search.beams
        )


def _described(beam: "Beam") -> dict[str, Any]:
    return {"text": beam.text, "tokens": beam.ids, "finish_reason": beam.finish_reason, "score": beam.score}
