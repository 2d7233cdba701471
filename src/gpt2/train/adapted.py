"""A GPT-2 with frozen matrices and trainable low-rank changes of them (LoRA; Hu et al. 2021).

Axes: I inputs of a map, O its outputs, R the rank.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2.checkpoint import map_names
from gpt2.config import ModelConfig
from gpt2.model.gpt import GPT, openai_name, whole
from gpt2.train.config import LoraConfig


class AdaptedLinear(nn.Linear):
    """A linear map with a low-rank change beside it; the map itself is frozen.

    Args:
        linear: the map, whose parameters become this one's.
        rank: of the change.
        scale: of the change.
        dropout: of the change's input, while training.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would allocate a map
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))  # so the change begins at zero
        self.scale = scale
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        read = functional.dropout(input, self.dropout, self.training)
        change = functional.linear(functional.linear(read, self.lora_A), self.lora_B)
        return functional.linear(input, self.weight, self.bias) + self.scale * change


class AdaptedGPT(GPT):
    """A GPT-2 with adapters; only the adapters learn.

    Args:
        config: the base's shape.
        arrays: the base's weights, as for `load_arrays`.
        lora: rank, scale and place of the adapters.
        generator: draws their initial values.
        dropout: as for `GPT`.
    """

    def __init__(
        self,
        config: ModelConfig,
        arrays: Mapping[str, Any],
        lora: LoraConfig,
        generator: torch.Generator,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(config, dropout=dropout)
        self.load_arrays(arrays)
        self.lora = lora
        self.requires_grad_(False)
        self.maps = map_names(config, lora.targets)
        for name in self.maps:
            parent_name, _, kind = name.rpartition(".")
            parent = self.get_submodule(parent_name)
            adapted = AdaptedLinear(
                cast("nn.Linear", getattr(parent, kind)),
                rank=lora.rank,
                scale=lora.alpha / lora.rank,
                dropout=lora.dropout,
            )
            # PEFT's initial values: A as nn.Linear's own, B zero
            nn.init.kaiming_uniform_(adapted.lora_A, a=math.sqrt(5), generator=generator)
            setattr(parent, kind, adapted)

    def adapter_arrays(self) -> Iterator[tuple[str, Tensor]]:
        """A and B under the names of `checkpoint.Adapter`, on the CPU; see `GPT.named_arrays`."""
        for name, parameter in self.named_parameters():
            if name.endswith(("lora_A", "lora_B")):
                yield name, whole(parameter.detach()).cpu()

    def named_arrays(self) -> Iterator[tuple[str, Tensor]]:
        """The weights with the changes merged, as of a GPT-2 without adapters; see `GPT.named_arrays`."""
        for name, parameter in self.named_parameters():
            module_name, _, kind = name.rpartition(".")
            if kind in ("lora_A", "lora_B"):
                continue
            array, module = parameter.detach(), self.get_submodule(module_name)
            if kind == "weight" and isinstance(module, AdaptedLinear):
                array = whole(array) + module.scale * whole(module.lora_B.detach()) @ whole(module.lora_A.detach())
            array, name = whole(array).cpu(), openai_name(name)
            yield name, array.T.contiguous() if name.endswith(".w") else array
