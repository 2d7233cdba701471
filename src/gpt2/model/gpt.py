"""GPT-2 as a trainable PyTorch module: `reference.py` with gradients.

Modules carry OpenAI's names (`wte wpe h.N.attn.c_attn ...`), so conversion to files takes one rule: matrices are
[in, out] in files and [out, in] in `nn.Linear`. Radford et al. 2019, section 2.3.

Axes: B sequences, T tokens, V vocabulary, D embedding, F the MLP's width, H heads, K the width of a head.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gpt2.config import ModelConfig
from gpt2.errors import ContextError, MismatchError


class Attention(nn.Module):
    """Causal self-attention of `n_head` heads (Vaswani et al. 2017, section 3.2).

    Attributes:
        attend: from queries, keys and values, [B, H, T, K] each, to the attention output; None: PyTorch's own.
            Training may set a faster one for the machine. Not used with attention dropout.
    """

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = dropout
        self.attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values side by side
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; a token attends to itself and earlier tokens."""
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in self.c_attn(x_BTD).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        if self.attend is not None and not dropout:
            mixed_BHTK = self.attend(q_BHTK, k_BHTK, v_BHTK)
        else:
            mixed_BHTK = functional.scaled_dot_product_attention(
                q_BHTK, k_BHTK, v_BHTK, dropout_p=dropout, is_causal=True
            )
        out_BTD: Tensor = self.c_proj(mixed_BHTK.transpose(1, 2).flatten(-2))
        return functional.dropout(out_BTD, self.dropout, self.training)


class MLP(nn.Module):
    """Two linear maps around GELU in its tanh form (Hendrycks and Gimpel 2016, section 2).

    Attributes:
        activated_map: GELU and the second map fused, from GELU's input and the map's weight and bias; None: one after
            the other. Training may set a faster one for the machine.
    """

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.activated_map: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], each token by itself."""
        h_BTF = self.c_fc(x_BTD)
        if self.activated_map is None:
            out_BTD: Tensor = self.c_proj(functional.gelu(h_BTF, approximate="tanh"))
        else:
            out_BTD = self.activated_map(h_BTF, self.c_proj.weight, self.c_proj.bias)
        return functional.dropout(out_BTD, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each preceded by a layer norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, dropout)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config, dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD))
        return x_BTD + self.mlp(self.ln_2(x_BTD))


class GPT(nn.Module):
    """The whole GPT-2. A new one holds PyTorch's own initial values: call `init.initialize` or `load_arrays`.

    Args:
        config: the shape.
        dropout: dropout probability in training, for the embedding, the attention weights and each sublayer's
            output. GPT-2 was trained with 0.1.
    """

    def __init__(self, config: ModelConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the output head: the two are tied
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, dropout) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        blocks: Sequence[Callable[[Tensor], Tensor]] | None = None,
        residual: torch.dtype | None = None,
    ) -> Tensor:
        """The residual stream after the last layer norm, [B, T, D]; times `wte.weight`'s transpose, the logits.

        Args:
            ids_BT: token ids.
            blocks: called in place of `h`: the same blocks, compiled.
            residual: dtype of the residual stream; None: that of the embedding.

        Raises:
            ContextError: T is more than `n_positions`.
        """
        T = ids_BT.shape[1]
        if self.config.n_positions < T:
            raise ContextError(
                f"{T:,} tokens do not fit the model's context of {self.config.n_positions:,}. Give fewer at a time."
            )
        x_BTD = self.wte(ids_BT) + self.wpe(torch.arange(T, device=ids_BT.device))
        x_BTD = functional.dropout(x_BTD, self.dropout, self.training)
        if residual is not None:
            x_BTD = x_BTD.to(residual)
        for block in self.h if blocks is None else blocks:
            x_BTD = block(x_BTD)
        out_BTD: Tensor = self.ln_f(x_BTD)
        return out_BTD

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of the token that follows each token, [B, T, V]."""
        return functional.linear(self.hidden(ids_BT), self.wte.weight)

    @torch.no_grad()
    def load_arrays(self, arrays: Mapping[str, NDArray[Any] | Tensor]) -> None:
        """Copy values in, from OpenAI's names and [in, out] matrices; the parameters keep their device and dtype.

        Raises:
            MismatchError: an array is missing, unknown or of another shape; nothing has changed.
        """
        parameters = {openai_name(name): p for name, p in self.named_parameters()}
        shapes = {name: tuple(p.T.shape if _is_matrix(name) else p.shape) for name, p in parameters.items()}
        if missing := sorted(shapes.keys() - arrays.keys()):
            raise MismatchError(f"the weights lack {len(missing)} arrays of this GPT-2, among them {missing[0]!r}.")
        if unknown := sorted(arrays.keys() - shapes.keys()):
            raise MismatchError(f"the weights hold {len(unknown)} arrays no GPT-2 has, among them {unknown[0]!r}.")
        for name, shape in shapes.items():
            if tuple(arrays[name].shape) != shape:
                raise MismatchError(f"{name} must have the shape {shape}: got {tuple(arrays[name].shape)}.")
        for name, parameter in parameters.items():
            array = arrays[name]
            array = array if isinstance(array, Tensor) else torch.tensor(array)  # a copy: files are mapped read-only
            parameter.copy_(array.T if _is_matrix(name) else array)

    def named_arrays(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, under OpenAI's name, as a contiguous [in, out] tensor on the CPU.

        On the CPU some of them share the parameter's memory: copy what must outlive the next training step. Sharded
        parameters are gathered one by one, so every process must iterate.
        """
        for name, parameter in self.named_parameters():
            array = whole(parameter.detach()).cpu()
            yield openai_name(name), array.T.contiguous() if _is_matrix(openai_name(name)) else array


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor (DTensor) gathered from all processes; any other tensor unchanged."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def openai_name(parameter: str) -> str:
    """`h.0.ln_1.weight` -> `h.0.ln_1.g`; `h.0.mlp.c_fc.weight` -> `h.0.mlp.c_fc.w`; `wte.weight` -> `wte`."""
    module, _, kind = parameter.rpartition(".")
    if module in ("wte", "wpe"):
        return module
    is_norm = module.rpartition(".")[2].startswith("ln_")
    return f"{module}.{'b' if kind == 'bias' else 'g' if is_norm else 'w'}"


def _is_matrix(name: str) -> bool:
    return name.endswith(".w")
