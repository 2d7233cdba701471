"""Turns readings of a text's parts into a verdict with an error rate, or into "inconclusive"."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from gpt2.detect.calibration import Calibration
from gpt2.detect.reading import Reading
from gpt2.detect.statistics import curvature, histogram, lrr, mean_entropy, mean_log_rank, mean_logprob, mean_rank
from gpt2.detect.windows import character_offsets, holm, windows
from gpt2.errors import GenerationError
from gpt2.generation.settings import checked_number
from gpt2.tokenizer import Tokenizer

Said = Literal["generated", "human", "inconclusive", "uncalibrated"]

_OF_BEGINNING = 2 / 3  # share of the allowed errors that a long text's beginning gets


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of the text, judged by itself.

    Attributes:
        start, end: characters of the text as read (after look-alikes were replaced).
        n_tokens: in it; the first `n_compared` are compared with texts of exactly that length.
        verdict: about this part; "generated" after Holm's correction over all parts.
        p_human: how rare so high a score is in human text; None if it could not be compared.
        p_generated: how rare so low a score is in the model's own text.
        statistics: name -> value over the whole part, in their sources' orientation.
        histogram: tokens among the 10, 100 and 1,000 most likely, and beyond.
    """

    start: int
    end: int
    n_tokens: int
    n_compared: int
    verdict: Said
    p_human: float | None
    p_generated: float | None
    statistics: dict[str, float]
    histogram: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict on a text.

    Attributes:
        verdict: "generated": so far from the human texts of the calibration that at most `false_positive_rate` of
            such texts would be called so. "human": unlike what this model writes; another may have. "inconclusive":
            neither. "uncalibrated": there is nothing to compare with.
        p_value: p-value of "humans wrote all of it".
        false_positive_rate: the requested rate.
        least_tokens: the length from which nine in ten of the model's own texts are detected, at the setting that is
            easiest to detect; None: at no length measured.
        reason: the reason, in a sentence for people.
        n_tokens: tokens of the text.
        parts: the parts in order; one for a short text.
        n_normalised: look-alike and invisible characters that were normalised before reading.
        readings: the numbers of every token, each once, by part in order.
    """

    verdict: Said
    p_value: float | None
    false_positive_rate: float
    least_tokens: int | None
    reason: str
    n_tokens: int
    parts: tuple[Part, ...]
    n_normalised: int = 0
    readings: tuple[Reading, ...] = field(default=(), repr=False, compare=False)

    def facts(self) -> dict[str, Any]:
        """Everything except the readings, as plain data."""
        found = asdict(replace(self, readings=()))
        del found["readings"]
        return found


def judge(
    text: str,
    *,
    tokenizer: Tokenizer,
    read: Callable[[Sequence[int]], Reading],
    calibration: Calibration | None,
    false_positive_rate: float = 0.01,
    window: int = 200,
    n_normalised: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Verdict:
    """Read and judge a text: as a whole up to the calibration's longest length, beyond it by windows and its beginning.

    Windows find the part that a model wrote, but each must stand out among all: with a few hundred human texts in the
    calibration, no text of several windows would be detected at a rate of 1 %. So the beginning, of the calibration's
    longest length, is also compared by itself. `progress` is called with the parts read and their number.

    Raises:
        GenerationError: an empty text, or a rate or window out of range.
    """
    false_positive_rate = checked_number("false_positive_rate", false_positive_rate, whole=False)
    window = checked_number("window", window, whole=True)
    if not 0 < false_positive_rate < 0.5:
        raise GenerationError(
            f"The false-positive rate must lie between 0 and 0.5: got {false_positive_rate}. 0.01 is the default."
        )
    if window < 25:
        raise GenerationError(f"A window must have at least 25 tokens to be judged: got {window}.")
    if not text.strip():
        raise GenerationError("There is nothing to judge: the text is empty. Give one of at least 25 tokens.")
    ids = tokenizer.encode(text)
    longest = max(calibration.human) if calibration else 2 * window
    spans = [(0, len(ids))] if len(ids) <= longest else windows(len(ids), window)
    offsets = character_offsets(tokenizer, ids, text, [end for _, end in spans])
    readings = list[Reading]()
    for start, end in spans:
        readings.append(read(ids[start:end]))
        progress(len(readings), len(spans))
    compared = [_compare(reading, calibration, false_positive_rate, tokenizer) for reading in readings]
    is_comparable = any(each.p_human is not None for each in compared)
    of_parts, of_beginning = [_or_one(each) for each in compared], None
    if is_comparable and len(ids) > longest:
        of_beginning = _or_one(_compare(read(ids[:longest]), calibration, false_positive_rate, tokenizer))
    told = holm(of_parts, false_positive_rate * (1 if of_beginning is None else 1 - _OF_BEGINNING))
    parts = tuple(
        _part(begin, end, reading, each, verdict="generated" if is_told else each.otherwise)
        for begin, end, reading, each, is_told in zip(
            [0, *offsets[:-1]], offsets, readings, compared, told, strict=True
        )
    )
    p_value = _combined(of_parts, of_beginning) if is_comparable else None
    lengths = calibration.least_lengths(false_positive_rate) if calibration else {}
    verdict, reason = _say(parts, compared, p_value, false_positive_rate, calibration, lengths, len(ids))
    return Verdict(
        verdict=verdict,
        p_value=p_value,
        false_positive_rate=false_positive_rate,
        least_tokens=min((n for n in lengths.values() if n is not None), default=None),
        reason=reason,
        n_tokens=len(ids),
        parts=parts,
        n_normalised=n_normalised,
        readings=tuple(readings),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    length: int
    p_human: float | None = None
    p_generated: float | None = None
    otherwise: Said = "inconclusive"  # the verdict unless it is called generated
    why: str = ""


def _compare(reading: Reading, calibration: Calibration | None, rate: float, tokenizer: Tokenizer) -> _Compared:
    if calibration is None:
        return _Compared(length=0, otherwise="uncalibrated")
    length = calibration.length_of(len(reading))
    if length is None:
        were = "1 token is" if len(reading) == 1 else f"{len(reading)} tokens are"
        return _Compared(length=0, why=f"{were} too few to tell: {min(calibration.human)} at least")
    first = reading.first(length)
    if not calibration.is_familiar(length, mean_logprob(first)):
        return _Compared(
            length=length,
            why="it is unlike the texts of the calibration: another language, source code, or another kind of text",
        )
    n_texts = len(calibration.human[length])
    if 1 / (1 + n_texts) > rate:
        return _Compared(
            length=length, why=f"the calibration has only {n_texts:,} texts of {length} tokens, too few for that rate"
        )
    score = calibration.score(first, tokenizer.decode)
    p_human, p_generated = calibration.p_human(length, score), calibration.p_generated(length, score)
    otherwise: Said = "human" if p_generated <= rate < p_human else "inconclusive"
    return _Compared(length=length, p_human=p_human, p_generated=p_generated, otherwise=otherwise)


def _part(start: int, end: int, reading: Reading, compared: _Compared, *, verdict: Said) -> Part:
    return Part(
        start=start,
        end=end,
        n_tokens=len(reading),
        n_compared=compared.length,
        verdict=verdict,
        p_human=compared.p_human,
        p_generated=compared.p_generated,
        statistics=_statistics(reading),
        histogram=histogram(reading),
    )


def _say(
    parts: Sequence[Part],
    compared: Sequence[_Compared],
    p_value: float | None,
    rate: float,
    calibration: Calibration | None,
    least: Mapping[str, int | None],
    n_tokens: int,
) -> tuple[Said, str]:
    if calibration is None:
        return "uncalibrated", (
            "no calibration for this model, so no verdict: make one from human text with "
            "`gpt2 detect --calibrate FOLDER --out FILE`"
        )
    if p_value is not None and p_value <= rate:
        marked = sum(part.verdict == "generated" for part in parts)
        where = "" if len(parts) == 1 else f"; {marked} of {len(parts)} parts stand out by themselves"
        return "generated", f"human text of its kind looks like this in at most {rate:.2%} of cases{where}"
    if all(part.verdict == "human" for part in parts):
        return "human", f"{calibration.model} writes like this in at most {rate:.2%} of cases; another model may"
    if p_value is None:
        return "inconclusive", next(each.why for each in compared)
    return "inconclusive", _why_not(calibration, least, n_tokens)


def _why_not(calibration: Calibration, least: Mapping[str, int | None], n_tokens: int) -> str:
    told = {setting: n for setting, n in least.items() if n is not None}
    never = " and ".join(setting for setting, n in least.items() if n is None)
    if not told:
        return (
            f"{calibration.model}'s own text cannot be reliably detected at any length up to {max(calibration.human)}"
        )
    enough = [setting for setting, n in told.items() if n <= n_tokens]
    if not enough:
        soonest = min(told, key=lambda setting: told[setting])
        return f"at this rate its text ({soonest}) can be detected from about {told[soonest]} tokens on"
    drawn = " and with ".join(enough)
    why = f"human and generated text overlap here, though text drawn with {drawn} is mostly detected at this length"
    return f"{why}; text drawn with {never} is detected at no length" if never else why


def _or_one(compared: _Compared) -> float:
    """1 for a part that cannot be compared; it still counts, since the text itself decides which parts those are."""
    return 1.0 if compared.p_human is None else compared.p_human


def _combined(of_parts: Sequence[float], of_beginning: float | None = None) -> float:
    """Combine p-values with any dependence into one, by Bonferroni's inequality.

    One part may stand out among all, or the beginning may, if every token deviates a little. The beginning gets the
    larger share of the allowed errors, since the few human texts bound how small its p-value can be.
    """
    among_parts = len(of_parts) * min(of_parts)
    if of_beginning is None:
        return min(1.0, among_parts)
    return min(1.0, among_parts / (1 - _OF_BEGINNING), of_beginning / _OF_BEGINNING)


def _statistics(reading: Reading) -> dict[str, float]:
    found = {
        "mean_logprob": mean_logprob(reading),
        "mean_rank": mean_rank(reading),
        "mean_log_rank": mean_log_rank(reading),
        "mean_entropy": mean_entropy(reading),
        "lrr": lrr(reading),
        "curvature": curvature(reading),
    }
    return {name: value for name, value in found.items() if value != float("inf")}  # JSON has no infinity
