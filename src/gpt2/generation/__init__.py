"""Making and scoring text: settings, filters, keyed draws, and the scheduler that runs requests over a backend."""

from gpt2.generation.completion import Answer, Completion, complete
from gpt2.generation.requests import Event, FinishReason, Request, TokenLogprob
from gpt2.generation.scheduler import Scheduler
from gpt2.generation.scoring import Scores, score
from gpt2.generation.settings import Sampling

__all__ = [
    "Answer",
    "Completion",
    "Event",
    "FinishReason",
    "Request",
    "Sampling",
    "Scheduler",
    "Scores",
    "TokenLogprob",
    "complete",
    "score",
]
