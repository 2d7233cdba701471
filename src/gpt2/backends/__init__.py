"""Runs one step of a GPT-2: the seam (`seam.py`) and the backends behind it.

`open` chooses a backend; the log and the backend's `reason` say which and why. Only NumPy is imported until a
backend needs more.
"""

from gpt2.backends.choice import BACKENDS, DEVICES, FORMS, open
from gpt2.backends.seam import NEXT_LOGITS, NOTHING, Backend, Patch, Result, Source, Trace, Want, Work

__all__ = [
    "BACKENDS",
    "DEVICES",
    "FORMS",
    "NEXT_LOGITS",
    "NOTHING",
    "Backend",
    "Patch",
    "Result",
    "Source",
    "Trace",
    "Want",
    "Work",
    "open",
]
