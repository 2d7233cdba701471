"""Detects generated text: statistics of a text under a model, and the conclusions they support."""

from gpt2.detect.calibrating import beginnings_of
from gpt2.detect.calibration import CALIBRATION, Calibration
from gpt2.detect.green import GreenMark, read_green
from gpt2.detect.marked_parts import MarkedPart, Marks, read_marks
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import Reading, read
from gpt2.detect.statistics import EVIDENCE
from gpt2.detect.trained import Detector
from gpt2.detect.verdict import Part, Verdict, judge
from gpt2.detect.watermark import Mark, read_mark
from gpt2.detect.watermark_key import read_key, write_new_key

__all__ = [
    "CALIBRATION",
    "EVIDENCE",
    "Calibration",
    "Detector",
    "GreenMark",
    "Mark",
    "MarkedPart",
    "Marks",
    "Part",
    "Reading",
    "Verdict",
    "beginnings_of",
    "judge",
    "normalise",
    "read",
    "read_green",
    "read_key",
    "read_mark",
    "read_marks",
    "write_new_key",
]
