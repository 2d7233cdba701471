"""Making and scoring text: settings, filters, keyed draws, and the scheduler that runs requests over a backend.

The names below are imported when they are first used: a command line wants the settings, and no NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.generation.beam import Beam, beam_search
    from gpt2.generation.constraint import Constraint, Follower
    from gpt2.generation.noise import ContextNoise, Noise
    from gpt2.generation.requests import Event, FinishReason, Request, TokenLogprob, Usage
    from gpt2.generation.scheduler import Scheduler
    from gpt2.generation.scoring import Score, score
    from gpt2.generation.settings import Sampling
    from gpt2.generation.statistics import Counts, Statistics

__all__ = [
    "Beam",
    "Constraint",
    "ContextNoise",
    "Counts",
    "Event",
    "FinishReason",
    "Follower",
    "Noise",
    "Request",
    "Sampling",
    "Scheduler",
    "Score",
    "Statistics",
    "TokenLogprob",
    "Usage",
    "beam_search",
    "score",
]

_HOMES = {
    "Beam": "beam",
    "Constraint": "constraint",
    "ContextNoise": "noise",
    "Counts": "statistics",
    "Event": "requests",
    "FinishReason": "requests",
    "Follower": "constraint",
    "Noise": "noise",
    "Request": "requests",
    "Sampling": "settings",
    "Scheduler": "scheduler",
    "Score": "scoring",
    "Statistics": "statistics",
    "TokenLogprob": "requests",
    "Usage": "requests",
    "beam_search": "beam",
    "score": "scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
