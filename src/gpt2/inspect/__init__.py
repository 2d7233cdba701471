"""Looks inside a GPT-2: activations, attention, neurons, the logit lens, what decides an answer, and one token.

Each is a function from a backend (or the definition, if no backend offers the values) and a text to a frozen result
whose arrays end in their axes. None holds [depths, T, V] logits, however long the text.
"""

from gpt2.inspect.ablation import Ablation, ablate
from gpt2.inspect.attribution import Attribution, attribute
from gpt2.inspect.embedding import embed
from gpt2.inspect.heads import Attention, attention
from gpt2.inspect.lens import Lens, logit_lens
from gpt2.inspect.mlp import Neurons, neurons
from gpt2.inspect.patching import Patching, patch
from gpt2.inspect.residual import Activations, activations
from gpt2.inspect.token import TokenView, view_token

__all__ = [
    "Ablation",
    "Activations",
    "Attention",
    "Attribution",
    "Lens",
    "Neurons",
    "Patching",
    "TokenView",
    "ablate",
    "activations",
    "attention",
    "attribute",
    "embed",
    "logit_lens",
    "neurons",
    "patch",
    "view_token",
]
