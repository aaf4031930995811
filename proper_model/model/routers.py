"""Routers: how much of each expert a token of a user gets.

User-aware router (PROPER eq. 8): `w = softmax(W_t x + W_e e_u)`, or the mean of the two softmaxes.
LoRA-aware router (eq. 12): `w = softmax(W_l B_u A_u x)`; the preset `default` adds its logits to the
user-aware ones, so that with `B_u = 0` stage 3 starts exactly where stage 2 ended.

`B_u A_u x` is never formed: `W_l (B_u A_u x) = (W_l B_u)(A_u x)`, an [N, r] matrix a user.
Logits and softmax are float32 (or wider) whatever the model computes in.

Letters: M tokens, B rows, N experts, r rank, i input width, o output width, e width of the user
embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proper_model.kernels import rows
from proper_model.kernels.layout import Layout, routing_dtype
from proper_model.settings.presets import RouterMerge


def text_logits(weight: Tensor, x: Tensor) -> Tensor:
    """`W_t x`: weight [N, i], x [..., i] -> [..., N], in routing precision."""
    dtype = routing_dtype(x)
    return x.to(dtype) @ weight.to(dtype).T


def user_logits(weight: Tensor, embedding: Tensor) -> Tensor:
    """`W_e e_u`: weight [N, e], embedding [B, e] -> [B, N]."""
    return torch.einsum("be,ne->bn", embedding, weight.to(embedding.dtype))


def lora_logits(weight: Tensor, hidden: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """`W_l B_u A_u x` from `hidden = A_u x` [M, r], every row's b [B, o, r], weight [N, o]: [M, N]."""
    dtype = routing_dtype(hidden)
    through = torch.einsum("no,bor->bnr", weight.to(dtype), b.to(dtype))
    return rows.product(hidden.to(dtype), through.transpose(1, 2), layout)


def merge(text: Tensor | None, user: Tensor, how: RouterMerge) -> Tensor:
    """Routing weights from text logits (or none) and user logits, both [..., N]."""
    if text is None:
        return normalize(user)
    if how is RouterMerge.AVERAGE:
        return (normalize(text) + normalize(user)) / 2
    return normalize(text + user)


def normalize(logits: Tensor) -> Tensor:
    """Softmax over experts, [..., N] -> [..., N].

    Along the first of two dimensions: PyTorch's softmax along a last dimension of five takes four
    times as long on a CPU.
    """
    weights = logits.transpose(-1, -2).contiguous().softmax(-2)
    return weights.transpose(-1, -2)


class Router(torch.nn.Module):
    """Router weights of one linear; which of them exist follows from the preset.

    Attributes:
        text: W_t `[N, d_in]` or None.
        user: W_e `[N, d_u]` or None where one tied router serves all linears.
        lora: W_l `[N, d_out]` or None. Trained once per release, shared by all users.
    """

    text: torch.nn.Parameter | None
    user: torch.nn.Parameter | None
    lora: torch.nn.Parameter | None

    def __init__(
        self,
        *,
        d_in: int,
        d_out: int,
        experts: int,
        embedding_dim: int,
        has_text: bool,
        has_user: bool,
        lora_std: float | None,
        generator: torch.Generator,
        lora_generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.text = _normal((experts, d_in), 0.02, generator) if has_text else None
        self.user = (
            _normal((experts, embedding_dim), USER_ROUTER_STD, generator) if has_user else None
        )
        self.lora = (
            None if lora_std is None else _normal((experts, d_out), lora_std, lora_generator)
        )


# DEVIATION: the paper names no start. Wide enough that random embeddings of unit-ish size route users differently from the first step;
# with a start near zero all users look alike and the gradient to e_u vanishes.
USER_ROUTER_STD = 0.3


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=generator) * std)
