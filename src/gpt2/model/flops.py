"""Operations of a GPT-2, counted from its configuration alone.

A multiply and an add are two operations (FLOPs). Only matrix products are counted: layer norms, GELU and softmax
are below 1 % at the published sizes, and an embedding lookup is not a product. Two conventions for attention are
common; they differ by up to a factor of two in its share:

- full (`causal=False`): as if every token attended to the whole context, as in most published utilisation
  figures (Chowdhery et al. 2022, PaLM, appendix B: 12 L H K S a token in training);
- causal (`causal=True`): the mean over a text from its start, (S + 1) / 2, which is what must be computed.
"""

from gpt2.config import ModelConfig


def multiplied_parameters(config: ModelConfig) -> int:
    """Weights that multiply each token: the matrices of the blocks and the head."""
    return config.n_layer * _block_matrices(config) + config.vocab_size * config.n_embd


def forward_flops_per_token(config: ModelConfig, context_tokens: int, *, causal: bool) -> float:
    """Operations per token of a text of `context_tokens`, averaged over the text, including its logits."""
    seen_tokens = (context_tokens + 1) / 2 if causal else context_tokens
    attention = 4.0 * config.n_layer * config.n_embd * seen_tokens  # queries by keys, and weights by values
    return 2.0 * multiplied_parameters(config) + attention


def training_flops_per_token(config: ModelConfig, context_tokens: int, *, causal: bool) -> float:
    """Forward and backward: the backward pass computes two products for each one of the forward pass."""
    return 3.0 * forward_flops_per_token(config, context_tokens, causal=causal)


def _block_matrices(config: ModelConfig) -> int:
    D, F = config.n_embd, config.n_inner
    return 3 * D * D + D * D + 2 * D * F  # c_attn, c_proj; c_fc, c_proj
