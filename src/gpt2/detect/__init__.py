"""Was this generated? Statistics of a text under a model, and what may honestly be concluded from them."""

from gpt2.detect.reading import Reading, read
from gpt2.detect.statistics import EVIDENCE

__all__ = ["EVIDENCE", "Reading", "read"]
