"""The mathematics of GPT-2, without files, sampling or training.

- `reference`: GPT-2 in NumPy, the definition that everything else must equal
- `gpt`: the same as a trainable PyTorch module
- `init`: initial parameter values
- `flops`: operations, counted from a configuration alone

`gpt` and `init` import PyTorch, so nothing is imported here: import from the module you need.
"""

__all__: list[str] = []
