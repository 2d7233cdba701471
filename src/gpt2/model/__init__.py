"""The mathematics of GPT-2, and nothing of files, sampling or training.

- `reference`: GPT-2 in NumPy, the definition that everything else must equal
- `gpt`: the same as a trainable PyTorch module
- `init`: how its parameters begin
- `flops`: operations, counted from a configuration alone

`gpt` and `init` import PyTorch, so nothing is imported here: take what you need from its module.
"""

__all__: list[str] = []
