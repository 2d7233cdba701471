"""What human text and the model's own text score, by length: what a p-value is read from.

A p-value is exact in the sense of split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic learning in a
random world", 2005; one-class as in Bates et al. 2023, "Testing for outliers with conformal p-values"): if a text
is exchangeable with the human texts of the calibration, the chance that its p-value is at most a is at most a,
whatever the model, the statistic or the distribution. It holds for text of the same kind, and for no other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.detect.reading import Reading
from gpt2.detect.statistics import curvature, mean_logprob
from gpt2.detect.trained import Detector
from gpt2.errors import DataError, FormatError, MismatchError
from gpt2.files import read_json, write_json

LENGTHS = (25, 35, 50, 70, 100, 140, 200, 280, 400)
"""In tokens, about half an octave apart: a text is read to the largest that it reaches, and compared with its like."""

CALIBRATION = "calibration.json"
_KIND, _VERSION = "gpt2 detect calibration", 1
_LEAST_TEXTS = 99  # with fewer, no p-value can be 1 %
_LIMIT_BYTES = 64 << 20

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Scores of known texts under one model.

    Attributes:
        model: its name, for people.
        fingerprint: of its weights; the calibration says nothing about another model.
        made_from: where the human texts came from and how the model's own were made.
        human: length -> scores of human texts, ascending; curvatures, if there is no `detector`.
        familiar: length -> their mean log-probabilities, ascending.
        generated: length -> scores of texts that the model wrote, ascending.
        detector: a trained one, whose log-odds the scores are.
    """

    model: str
    fingerprint: str
    made_from: Mapping[str, Any]
    human: Mapping[int, Doubles]
    familiar: Mapping[int, Doubles]
    generated: Mapping[int, Doubles]
    detector: Detector | None = None

    def score(self, reading: Reading, decode: Callable[[Sequence[int]], str]) -> float:
        """What of a text is compared: larger speaks for generated text."""
        if self.detector is None:
            return curvature(reading)
        return self.detector.score(reading, decode(reading.ids_T.tolist()))

    def length_of(self, n_tokens: int) -> int | None:
        """The largest length that a text of so many tokens reaches; None: it is too short for any."""
        return max((length for length in self.human if length <= n_tokens), default=None)

    def p_human(self, length: int, score: float) -> float:
        """The p-value of "a human wrote it": small where the score is above those of human text."""
        known = self.human[length]
        return (1 + len(known) - int(np.searchsorted(known, score, side="left"))) / (1 + len(known))

    def p_generated(self, length: int, score: float) -> float:
        """The p-value of "this model wrote it": small where the score is below those of its own text."""
        return _p_low(self.generated[length], score)

    def p_familiar(self, length: int, mean: float) -> float:
        """The p-value of "text of this kind": small where the model is more surprised than by the human texts."""
        return _p_low(self.familiar[length], mean)

    def power(self, length: int, false_positive_rate: float) -> float:
        """Which share of the model's own texts of this length would be called generated."""
        own = self.generated[length]
        return float(np.mean([self.p_human(length, score) <= false_positive_rate for score in own.tolist()]))

    def least_length(self, false_positive_rate: float, *, power: float = 0.9) -> int | None:
        """Tokens from which at least this share of the model's own texts is told; None: at no length here."""
        enough = [length for length in self.human if self.power(length, false_positive_rate) >= power]
        return min(enough, default=None)

    def check(self, fingerprint: str, name: str) -> None:
        """Refuse another model than the one it was made with.

        Raises:
            MismatchError: the fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise MismatchError(
                f"The calibration cannot be used for {name}: it was made with {self.model}, of other weights "
                f"({self.fingerprint[:12]}, not {fingerprint[:12]}). Make one with "
                f"`gpt2 detect --calibrate FOLDER --out FILE --model {name}`."
            )

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        table = {
            name: {str(length): [round(x, 4) for x in scores.tolist()] for length, scores in column.items()}
            for name, column in (("human", self.human), ("familiar", self.familiar), ("generated", self.generated))
        }
        facts = {"kind": _KIND, "version": _VERSION, "model": self.model, "fingerprint": self.fingerprint}
        trained = {} if self.detector is None else {"detector": self.detector.as_json()}
        write_json(path, {**facts, "made_from": dict(self.made_from), **table, **trained})

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Read what `write` wrote.

        Raises:
            FormatError: it is something else.
            OSError: it cannot be read.
        """
        found = read_json(path, limit_bytes=_LIMIT_BYTES)
        try:
            if (found["kind"], found["version"]) != (_KIND, _VERSION):
                raise ValueError
            columns = {
                name: {int(length): np.sort(np.array(scores, np.float64)) for length, scores in found[name].items()}
                for name in ("human", "familiar", "generated")
            }
            human, familiar, generated = columns["human"], columns["familiar"], columns["generated"]
            if not human or not human.keys() == familiar.keys() == generated.keys():
                raise ValueError
            if not all(x.ndim == 1 and len(x) and np.isfinite(x).all() for c in columns.values() for x in c.values()):
                raise ValueError
            return cls(
                model=str(found["model"]),
                fingerprint=str(found["fingerprint"]),
                made_from=dict(found["made_from"]),
                human=human,
                familiar=familiar,
                generated=generated,
                detector=Detector.from_json(found["detector"]) if "detector" in found else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FormatError(
                f"{path} is not a calibration that can be read here. Make one with "
                f"`gpt2 detect --calibrate FOLDER --out FILE`."
            ) from None


def calibrate(
    human: Iterable[Reading],
    generated: Iterable[Reading],
    *,
    model: str,
    fingerprint: str,
    made_from: Mapping[str, Any],
    detector: Detector | None = None,
    decode: Callable[[Sequence[int]], str] = lambda ids: "",
) -> Calibration:
    """Make a calibration of known texts; each counts at every length that it reaches.

    With a trained detector the texts must not be those that it was trained on; `decode` gives it their text.
    Lengths that fewer than 99 human texts reach are left out, for there no p-value can be as small as 1 %.

    Raises:
        DataError: there is no length that enough texts reach.
    """

    def score(reading: Reading) -> float:
        return curvature(reading) if detector is None else detector.score(reading, decode(reading.ids_T.tolist()))

    by_human, by_model = _scores(human, score), _scores(generated, score)
    usable = [n for n in LENGTHS if len(by_human[n]) >= _LEAST_TEXTS and by_model[n]]
    if not usable:
        raise DataError(
            f"No calibration can be made: {len(by_human[LENGTHS[0]]):,} human texts reach {LENGTHS[0]} tokens, and "
            f"{len(by_model[LENGTHS[0]]):,} of the model's. Give at least {_LEAST_TEXTS} human texts."
        )
    return Calibration(
        model=model,
        fingerprint=fingerprint,
        made_from=made_from,
        human={n: np.sort([score for score, _ in by_human[n]]) for n in usable},
        familiar={n: np.sort([mean for _, mean in by_human[n]]) for n in usable},
        generated={n: np.sort([score for score, _ in by_model[n]]) for n in usable},
        detector=detector,
    )


def _scores(readings: Iterable[Reading], score: Callable[[Reading], float]) -> dict[int, list[tuple[float, float]]]:
    found: dict[int, list[tuple[float, float]]] = {length: [] for length in LENGTHS}
    for reading in readings:
        for length in LENGTHS:
            if len(reading) >= length:
                first = reading.first(length)
                found[length].append((score(first), mean_logprob(first)))
    return found


def _p_low(known: Doubles, score: float) -> float:
    return (1 + int(np.searchsorted(known, score, side="right"))) / (1 + len(known))
