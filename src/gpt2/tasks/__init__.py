"""GPT-2's zero-shot tasks as prompts and answer rules: translate, summarize, answer.

What the model is asked is data (`prompts.toml`); each task is two pure functions: `ask` makes the prompt,
`read` takes the answer out of the continuation. A third, which bears the task's name, has somebody write between them.
Nothing here computes a model.
"""

from gpt2.tasks import answer, summarize, translate
from gpt2.tasks.asked import Asked, Room
from gpt2.tasks.prompts import Prompts

__all__ = ["Asked", "Prompts", "Room", "answer", "summarize", "translate"]
