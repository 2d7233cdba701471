"""Making and scoring text: settings, filters, keyed draws, and the scheduler that runs requests over a backend.

The names below are imported on first use: the command line needs the settings without NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.generation.beam import Beam, beam_search
    from gpt2.generation.completion import Completion, Sample
    from gpt2.generation.constraint import Constraint, Follower
    from gpt2.generation.draft_model import ModelDrafter
    from gpt2.generation.drafting import Drafter
    from gpt2.generation.greenlist import GreenList
    from gpt2.generation.many import complete_each
    from gpt2.generation.ngram import NgramDrafter
    from gpt2.generation.noise import ContextNoise, Noise
    from gpt2.generation.requests import Event, FinishReason, Request, TokenLogprob, Usage
    from gpt2.generation.scheduler import Scheduler
    from gpt2.generation.scoring import Score, logits, score
    from gpt2.generation.settings import Sampling
    from gpt2.generation.statistics import Counts, Statistics

__all__ = [
    "Beam",
    "Completion",
    "Constraint",
    "ContextNoise",
    "Counts",
    "Drafter",
    "Event",
    "FinishReason",
    "Follower",
    "GreenList",
    "ModelDrafter",
    "NgramDrafter",
    "Noise",
    "Request",
    "Sample",
    "Sampling",
    "Scheduler",
    "Score",
    "Statistics",
    "TokenLogprob",
    "Usage",
    "beam_search",
    "complete_each",
    "logits",
    "score",
]

_HOMES = {
    "Beam": "beam",
    "Completion": "completion",
    "Constraint": "constraint",
    "ContextNoise": "noise",
    "Counts": "statistics",
    "Drafter": "drafting",
    "Event": "requests",
    "FinishReason": "requests",
    "Follower": "constraint",
    "GreenList": "greenlist",
    "ModelDrafter": "draft_model",
    "NgramDrafter": "ngram",
    "Noise": "noise",
    "Request": "requests",
    "Sample": "completion",
    "Sampling": "settings",
    "Scheduler": "scheduler",
    "Score": "scoring",
    "Statistics": "statistics",
    "TokenLogprob": "requests",
    "Usage": "requests",
    "beam_search": "beam",
    "complete_each": "many",
    "logits": "scoring",
    "score": "scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
