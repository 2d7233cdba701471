"""Perplexity of a text that was cut into words: per original word, per token and per byte, side by side.

"Results on language modeling datasets are usually reported in a quantity which is a scaled or exponentiated
version of the average negative log probability per canonical prediction unit - usually a character, a byte, or
a word. We evaluate the same quantity by computing the log-probability of a dataset according to a WebText LM
and dividing by the number of canonical units" (section 3.1). So the number of tokens GPT-2 needs for the text
does not enter, and perplexities per token of different vocabularies, or per token and per word, do not compare.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpt2.evaluate import uncertainty
from gpt2.evaluate.benchmark import Benchmark, Choice, DataFile, Figures, Known, Plan, Setting
from gpt2.evaluate.detokenize import detokenize
from gpt2.generation.targets import Target, TargetScore

LAST_WINDOW = {
    "last_window": Choice(
        values=("short", "full"), help="whether the last window of a text moves on as the others, or reaches back"
    )
}
CHOICES = {
    "detokenize": Choice(values=("yes", "no"), help="write the text as it is usually written before it is scored"),
    "newlines": Choice(values=("counted", "ignored"), help="whether the end of a line is one more word (<eos>)"),
    **LAST_WINDOW,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """The documents to score, and the units to divide their log-probability by.

    Attributes:
        documents: each scored by itself, after the end-of-text token.
        n_words: of the original text, by its own count.
        n_bytes: of the original text.
        n_examples: of the unit that a limit counts.
        notes: to report with the figures.
    """

    documents: Sequence[str]
    n_words: int
    n_bytes: int
    n_examples: int
    notes: tuple[str, ...] = ()


def windows(ids: Sequence[int], *, eot: int, n_positions: int, stride: int, full: bool = False) -> Iterator[Target]:
    """Windows that score every token of a text once, the first after the end-of-text token.

    The windows are those of `generation.scoring`: each begins `stride` tokens after the one before, and each token
    outside the first window has at least `n_positions - stride` tokens before it.

    Args:
        ids: of the text.
        eot: the end-of-text token.
        n_positions: the context.
        stride: tokens by which the window moves.
        full: the last window begins earlier, to be as long as the others.
    """
    all_ids = (eot, *ids)
    done = 1
    for start in range(0, len(ids), stride):
        end = min(start + n_positions, len(ids)) + 1  # the last token of a window is predicted, not read
        if full and end == len(all_ids):
            start = max(0, len(ids) - n_positions)
        yield Target(context=all_ids[start:done], targets=all_ids[done:end])
        done = end
        if done == len(all_ids):
            return


def plan_texts(texts: Texts, setting: Setting) -> Plan:
    """Score documents; figures per word, per token and per byte of the original."""
    full = setting.choices.get("last_window") == "full"
    requests = [
        target
        for document in texts.documents
        for target in windows(
            setting.encode(document),
            eot=setting.eot,
            n_positions=setting.n_positions,
            stride=setting.stride,
            full=full,
        )
    ]

    def measure(results: Sequence[TargetScore]) -> Figures:
        loss = -math.fsum(logprob for result in results for logprob in result.logprobs)
        n_tokens = sum(len(result.logprobs) for result in results)
        return {
            "perplexity_per_word": exp(loss / texts.n_words),
            "perplexity_per_token": exp(loss / n_tokens),
            "bits_per_byte": loss / math.log(2) / texts.n_bytes,
            "words": texts.n_words,
            "tokens": n_tokens,
            "bytes": texts.n_bytes,
        }

    def errors(results: Sequence[TargetScore]) -> Figures:
        if len(results) < 2:
            return {}
        losses = [-math.fsum(result.logprobs) for result in results]
        of_loss = uncertainty.of_total(losses, [len(result.logprobs) for result in results])
        figures = measure(results)
        return {
            "perplexity_per_word": figures["perplexity_per_word"] * of_loss / texts.n_words,
            "perplexity_per_token": figures["perplexity_per_token"] * of_loss / figures["tokens"],
            "bits_per_byte": of_loss / math.log(2) / texts.n_bytes,
        }

    return Plan(requests=requests, measure=measure, n_examples=texts.n_examples, errors=errors, notes=texts.notes)


def plan(
    text: str,
    setting: Setting,
    there: Callable[[str], str],
    back: Callable[[str], str],
    *,
    blank_lines: bool,
    apart: bool = False,
    begins: Callable[[str], bool] | None = None,
) -> Plan:
    """Score a file of words and spaces, one sentence or paragraph a line.

    Args:
        text: of the file.
        setting: how; `limit` counts lines that have words.
        there: the de-tokenizer of a line.
        back: its inverse.
        blank_lines: whether empty lines are part of the text.
        apart: make every line a document of its own.
        begins: tells whether a line begins a document; without it (and not `apart`) the whole file is one.
    """
    lines, n_examples = _taken(text, setting.limit, blank_lines=blank_lines)
    natural, notes = lines, ()
    if setting.choices["detokenize"] == "yes":
        done = detokenize(lines, there, back)
        natural = done.lines
        if done.as_they_were:
            notes = (
                f"{done.as_they_were:,} of {len(lines):,} lines were left as they are, because the de-tokenizer "
                f"could not be inverted there; of those, {done.lost:,} have no inverse even so",
            )
    n_words = sum(len(line.split()) for line in lines)
    n_words += len(lines) if setting.choices["newlines"] == "counted" else 0
    texts = Texts(
        documents=_documents(lines, natural, apart=apart, begins=begins),
        n_words=n_words,
        n_bytes=len("".join(f"{line}\n" for line in lines).encode("utf-8")),
        n_examples=n_examples,
        notes=notes,
    )
    return plan_texts(texts, setting)


def benchmark_by_word(
    *,
    name: str,
    title: str,
    protocol: str,
    files: tuple[DataFile, ...],
    choices: Mapping[str, Choice],
    plan: Callable[[Sequence[str], Setting], Plan],
    paper: tuple[float, ...],
    made_up: str,
    known: tuple[Known, ...],
) -> Benchmark:
    """A benchmark for which the paper reports the perplexity per word; the arguments are those of `Benchmark`."""
    return Benchmark(
        name=name,
        title=title,
        protocol=f"Section 3.1: {protocol}",
        files=files,
        choices=choices,
        plan=plan,
        paper={"perplexity_per_word": paper},
        made_up=(made_up,),
        headline="perplexity_per_word",
        better="lower",
        known=known,
    )


def exp(x: float) -> float:
    """The exponential; infinite if a float cannot hold it."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _documents(
    lines: Sequence[str], natural: Sequence[str], *, apart: bool, begins: Callable[[str], bool] | None
) -> list[str]:
    documents: list[list[str]] = [[]]
    for line, written in zip(lines, natural, strict=True):
        begun = "".join(documents[-1]).strip() if apart or (begins is not None and begins(line)) else ""
        if begun:
            documents.append([])
        documents[-1].append(f"{written}\n")
    return ["".join(document) for document in documents]


def _taken(text: str, limit: int | None, *, blank_lines: bool) -> tuple[list[str], int]:
    lines: list[str] = []
    n_examples = 0
    for line in text.removesuffix("\n").split("\n"):
        if line.strip():
            if limit is not None and n_examples == limit:
                break
            n_examples += 1
        elif not blank_lines:
            continue
        lines.append(line.strip(" "))
    return lines, n_examples
