"""Optimizers: parameter groups, AdamW, Muon, weight averaging, and schedules as functions of progress.

This package sees names and parameters, never a model class.
"""

from gpt2.optim.adamw import adamw
from gpt2.optim.average import average, take_average
from gpt2.optim.groups import Kind, partition
from gpt2.optim.muon import Muon, orthogonalize
from gpt2.optim.schedule import cosine, stage, trapezoid, warm_momentum

__all__ = [
    "Kind",
    "Muon",
    "adamw",
    "average",
    "cosine",
    "orthogonalize",
    "partition",
    "stage",
    "take_average",
    "trapezoid",
    "warm_momentum",
]
