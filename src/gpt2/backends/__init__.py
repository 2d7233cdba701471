"""Running one step of a GPT-2: the seam (`seam.py`), and behind it whatever computes.

`open` chooses a backend, and says in the log and in the backend's `reason` what was chosen and why. Nothing but
NumPy is imported until a backend asks for more.
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
