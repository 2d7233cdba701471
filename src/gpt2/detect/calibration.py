"""Scores of human text and of the model's own text, by length, from which p-values are computed.

A p-value is exact in the sense of split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic learning in a
random world", 2005; one-class as in Bates et al. 2023, "Testing for outliers with conformal p-values"): if a text
is exchangeable with the human texts of the calibration, the chance that its p-value is at most a is at most a,
whatever the model, the statistic or the distribution. This holds only for text of the same kind.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.detect.reading import Reading
from gpt2.detect.statistics import curvature, mean_logprob
from gpt2.detect.trained import Detector
from gpt2.errors import DataError, FormatError, MismatchError
from gpt2.files import read_json, write_text

LENGTHS = (25, 35, 50, 70, 100, 140, 200, 280, 400)
"""In tokens, about half an octave apart: a text is read to the largest that it reaches, and compared with its like."""

CALIBRATION = "calibration.json"
_KIND, _VERSION = "gpt2 detect calibration", 1
_LEAST_TEXTS = 99  # with fewer, no p-value can reach 1 %
_UNFAMILIAR = 0.01  # share of human texts of the calibration's kind that are taken for another kind
_LIMIT_BYTES = 64 << 20

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Scores of known texts under one model.

    Attributes:
        model: its name, for people.
        fingerprint: of its weights; the calibration is not valid for another model.
        made_from: where the human texts came from and how the model's own were made.
        human: length -> scores of human texts, ascending; curvatures, if there is no `detector`.
        familiar: length -> their mean log-probabilities, ascending.
        generated: the model's sampling setting ("top-k 40") -> length -> scores of its texts, ascending.
        detector: a trained one; the scores are then its log-odds.
    """

    model: str
    fingerprint: str
    made_from: Mapping[str, Any]
    human: Mapping[int, Doubles] = field(repr=False)
    familiar: Mapping[int, Doubles] = field(repr=False)
    generated: Mapping[str, Mapping[int, Doubles]] = field(repr=False)
    detector: Detector | None = field(default=None, repr=False)

    def score(self, reading: Reading, decode: Callable[[Sequence[int]], str]) -> float:
        """The score of a text that is compared; larger values indicate generated text."""
        if self.detector is None:
            return curvature(reading)
        return self.detector.score(reading, decode(reading.ids_T.tolist()))

    def length_of(self, n_tokens: int) -> int | None:
        """The largest calibrated length that a text of this many tokens reaches; None: it is too short."""
        return max((length for length in self.human if length <= n_tokens), default=None)

    def p_human(self, length: int, score: float) -> float:
        """The p-value of "a human wrote it": small if the score is above those of human text."""
        known = self.human[length]
        return (1 + len(known) - int(np.searchsorted(known, score, side="left"))) / (1 + len(known))

    def p_generated(self, length: int, score: float) -> float:
        """The p-value of "this model wrote it": small if the score is below its own texts' in every setting."""
        return max(_p_low(own[length], score) for own in self.generated.values())

    def is_familiar(self, length: int, mean: float) -> bool:
        """Whether it may be text of this kind; False if it surprises the model more than nearly all such text."""
        return _p_low(self.familiar[length], mean) > _UNFAMILIAR

    def power(self, setting: str, length: int, false_positive_rate: float) -> float:
        """The share of the model's own texts of this setting and length that would be called generated."""
        own = self.generated[setting][length].tolist()
        return float(np.mean([self.p_human(length, score) <= false_positive_rate for score in own]))

    def least_lengths(self, false_positive_rate: float, *, power: float = 0.9) -> dict[str, int | None]:
        """By setting, the least length in tokens at which this share of texts is detected; None: none here."""
        return {
            setting: min((n for n in own if self.power(setting, n, false_positive_rate) >= power), default=None)
            for setting, own in self.generated.items()
        }

    def check(self, fingerprint: str, name: str) -> None:
        """Refuse a model other than the one it was made with.

        Raises:
            MismatchError: the fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise MismatchError(
                f"The calibration cannot be used for {name}: it was made with {self.model}, of other weights "
                f"({self.fingerprint[:12]}, not {fingerprint[:12]}). Make one with "
                f"`gpt2 detect --calibrate FOLDER --out FILE --model {shlex.quote(name)}`."
            )

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        facts = {"kind": _KIND, "version": _VERSION, "model": self.model, "fingerprint": self.fingerprint}
        facts |= {"made_from": dict(self.made_from), "human": _plain(self.human), "familiar": _plain(self.familiar)}
        facts |= {"generated": {setting: _plain(own) for setting, own in self.generated.items()}}
        if self.detector is not None:
            facts |= {"detector": self.detector.as_json()}
        lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in facts.items()]
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def beside(cls, folder: Path) -> "Calibration | None":
        """The calibration in a model's folder, if there is one. Raises as `read` does."""
        path = folder / CALIBRATION
        return cls.read(path) if path.is_file() else None

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
            human, familiar = _column(found["human"]), _column(found["familiar"])
            generated = {str(setting): _column(own) for setting, own in found["generated"].items()}
            if not human or not generated:
                raise ValueError
            if any(other.keys() != human.keys() for other in (familiar, *generated.values())):
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
    generated: Mapping[str, Iterable[Reading]],
    *,
    model: str,
    fingerprint: str,
    made_from: Mapping[str, Any],
    detector: Detector | None = None,
    decode: Callable[[Sequence[int]], str] = lambda ids: "",
) -> Calibration:
    """Make a calibration from known texts; each counts at every length that it reaches.

    A trained detector must not have been trained on these texts; `decode` gives it their text. Lengths that fewer
    than 99 human texts reach are left out, since no p-value there can reach 1 %.

    Raises:
        DataError: there is no length that enough texts reach.
    """

    def score(reading: Reading) -> float:
        return curvature(reading) if detector is None else detector.score(reading, decode(reading.ids_T.tolist()))

    by_human = _scores(human, score)
    by_model = {setting: _scores(readings, score) for setting, readings in generated.items()}
    by_model = {setting: own for setting, own in by_model.items() if own[LENGTHS[0]]}
    usable = [
        n for n in LENGTHS if len(by_human[n]) >= _LEAST_TEXTS and by_model and all(own[n] for own in by_model.values())
    ]
    if not usable:
        raise DataError(
            f"No calibration can be made: {len(by_human[LENGTHS[0]]):,} human texts reach {LENGTHS[0]} tokens, and "
            f"{sum(len(own[LENGTHS[0]]) for own in by_model.values()):,} of the model's. Give at least {_LEAST_TEXTS} "
            f"human texts."
        )
    return Calibration(
        model=model,
        fingerprint=fingerprint,
        made_from=made_from,
        human={n: np.sort([score for score, _ in by_human[n]]) for n in usable},
        familiar={n: np.sort([mean for _, mean in by_human[n]]) for n in usable},
        generated={
            setting: {n: np.sort([score for score, _ in own[n]]) for n in usable} for setting, own in by_model.items()
        },
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


def _plain(column: Mapping[int, Doubles]) -> dict[str, list[float]]:
    return {str(length): [round(x, 4) for x in scores.tolist()] for length, scores in column.items()}


def _column(found: Mapping[str, Any]) -> dict[int, Doubles]:
    column = {int(length): np.sort(np.array(scores, np.float64)) for length, scores in found.items()}
    if not all(x.ndim == 1 and len(x) and np.isfinite(x).all() for x in column.values()):
        raise ValueError
    return column


def _p_low(known: Doubles, score: float) -> float:
    return (1 + int(np.searchsorted(known, score, side="right"))) / (1 + len(known))
