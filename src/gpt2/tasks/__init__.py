"""GPT-2's zero-shot tasks as prompts and answer rules: translate, summarize, answer.

Prompts are data (`prompts.toml`). Each task has two pure functions: `ask` makes the prompt, and `read` extracts the
answer from the continuation. A third, named after the task, calls the given `write` between them. Nothing here runs a
model.
"""

from gpt2.tasks import answer, summarize, translate
from gpt2.tasks.asked import Asked, Room
from gpt2.tasks.prompts import Prompts

__all__ = ["Asked", "Prompts", "Room", "answer", "summarize", "translate"]
