"""Making and scoring text: settings, filters, keyed draws, and the scheduler that runs requests over a backend."""

from gpt2.generation.beam import Beam, beam_search
from gpt2.generation.requests import Event, FinishReason, Request, TokenLogprob
from gpt2.generation.scheduler import Scheduler
from gpt2.generation.scoring import Score, score
from gpt2.generation.settings import Sampling

__all__ = [
    "Beam",
    "Event",
    "FinishReason",
    "Request",
    "Sampling",
    "Scheduler",
    "Score",
    "TokenLogprob",
    "beam_search",
    "score",
]
