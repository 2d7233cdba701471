"""Looking inside a GPT-2: activations, attention, the logit lens, patching, and one token from every side.

Each is a function from a backend and a text to a frozen result whose arrays end in their axes. None holds
[depths, T, V] logits, however long the text.
"""

from gpt2.inspect.embedding import embed
from gpt2.inspect.heads import Attention, attention
from gpt2.inspect.lens import Lens, logit_lens
from gpt2.inspect.patching import Patching, patch
from gpt2.inspect.residual import Activations, activations
from gpt2.inspect.token import TokenView, view_token

__all__ = [
    "Activations",
    "Attention",
    "Lens",
    "Patching",
    "TokenView",
    "activations",
    "attention",
    "embed",
    "logit_lens",
    "patch",
    "view_token",
]
