"""Parameter groups: every parameter of a GPT-2 is exactly one of three kinds, by its name and shape."""

from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn

Kind = Literal["matrix", "embedding", "vector"]
_EMBEDDINGS = ("wte", "wpe")


def kind_of(name: str, n_axes: int) -> Kind:
    """The kind of the parameter called `name`.

    - `vector`: biases and layer-norm gains. Never decayed.
    - `embedding`: `wte` (which is also the head) and `wpe`. Each row is one token or position.
    - `matrix`: the four linear maps of a block, which Muon may orthogonalise.
    """
    if n_axes == 1:
        return "vector"
    module = name.removesuffix(".weight").rpartition(".")[2]
    if n_axes == 2 and module in _EMBEDDINGS:
        return "embedding"
    assert n_axes == 2, f"{name} has {n_axes} axes: no parameter of a GPT-2 has"
    return "matrix"


def partition(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[Kind, dict[str, nn.Parameter]]:
    """Every trainable parameter, by kind and name, in the order given."""
    groups: dict[Kind, dict[str, nn.Parameter]] = {kind: {} for kind in get_args(Kind)}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups[kind_of(name, parameter.ndim)][name] = parameter
    return groups
