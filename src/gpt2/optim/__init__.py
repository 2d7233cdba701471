"""Optimizers: which parameter is which, AdamW, Muon, and every schedule as a pure function of progress.

The room sees names and parameters, never a model class.
"""

from gpt2.optim.adamw import adamw
from gpt2.optim.groups import Kind, partition
from gpt2.optim.muon import Muon, orthogonalize
from gpt2.optim.schedule import cosine, stage, trapezoid, warm_momentum

__all__ = ["Kind", "Muon", "adamw", "cosine", "orthogonalize", "partition", "stage", "trapezoid", "warm_momentum"]
