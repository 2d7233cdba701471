"""Initial values of a GPT-2's parameters.

Three sources describe them, and they do not quite agree:

- Radford et al. 2019, section 2.3: the weights of residual layers are initially scaled by 1/sqrt(N), N being
  the number of residual layers. A block adds to the residual stream twice, so N = 2 * n_layer.
- OpenAI's released code (src/model.py) draws matrices and `wte` from N(0, 0.02), `wpe` from N(0, 0.01), sets
  biases to 0 and gains to 1, and omits the scaling: it was written to load weights, not to train them.
- Later training codes mostly draw `wpe` from N(0, 0.02) too.

This module uses OpenAI's standard deviations with the paper's scaling. The first loss on random tokens is then
ln(vocab_size) + 0.0002 * n_embd, within 0.05: half the logits' variance, 0.02^2 * n_embd, adds to the loss.
"""

import math

import torch

from gpt2.model.gpt import GPT, openai_name

WEIGHT_STD = 0.02
POSITION_STD = 0.01


@torch.no_grad()
def initialize(model: GPT, generator: torch.Generator, *, zero_projections: bool = False) -> None:
    """Initialize every parameter; the same generator gives the same values on every device.

    Args:
        model: changed in place, whatever its device and dtype.
        generator: a CPU generator; all numbers are drawn there, in float32.
        zero_projections: set both `c_proj` of every block to zero, so that a block initially adds nothing
            (Zhang et al. 2019, Fixup; used by fast GPT-2 trainings). All other values are unchanged. The head is
            tied, so a model whose blocks add nothing predicts its input token again, with a logit near
            `0.02 * n_embd`: at widths of 768 and more the first loss is well above ln(vocab_size).
    """
    residual_layers = 2 * model.config.n_layer
    for name, parameter in model.named_parameters():
        array = openai_name(name)
        if array.endswith(".g"):
            parameter.fill_(1.0)
        elif array.endswith(".b"):
            parameter.zero_()
        else:
            std = POSITION_STD if array == "wpe" else WEIGHT_STD
            if array.endswith("c_proj.w"):
                std *= 0.0 if zero_projections else 1.0 / math.sqrt(residual_layers)
            parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))
