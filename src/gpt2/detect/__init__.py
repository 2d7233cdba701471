"""Was this generated? Statistics of a text under a model, and what may honestly be concluded from them."""

from gpt2.detect.calibrating import passages
from gpt2.detect.calibration import CALIBRATION, Calibration
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import Reading, read
from gpt2.detect.statistics import EVIDENCE
from gpt2.detect.verdict import Part, Verdict, judge
from gpt2.detect.watermark import Mark, read_mark
from gpt2.detect.watermark_key import read_key, write_new_key

__all__ = [
    "CALIBRATION",
    "EVIDENCE",
    "Calibration",
    "Mark",
    "Part",
    "Reading",
    "Verdict",
    "judge",
    "normalise",
    "passages",
    "read",
    "read_key",
    "read_mark",
    "write_new_key",
]
