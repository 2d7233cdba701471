"""Was this generated? Statistics of a text under a model, and what may honestly be concluded from them."""

from gpt2.detect.calibrating import passages
from gpt2.detect.calibration import CALIBRATION, Calibration
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import Reading, read
from gpt2.detect.statistics import EVIDENCE
from gpt2.detect.verdict import Part, Verdict, judge

__all__ = [
    "CALIBRATION",
    "EVIDENCE",
    "Calibration",
    "Part",
    "Reading",
    "Verdict",
    "judge",
    "normalise",
    "passages",
    "read",
]
