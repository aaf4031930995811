"""The loss of answers: one packed pass through the base, logits at answers only.

A language model's head costs `hidden x vocabulary` a token, as much as several blocks of a small
base, and its logits are its largest activation. Only answer tokens carry loss (eq. 4), so the head
runs at those, and a frozen head's loss needs no logits kept: `FrozenHeadLoss` makes them a chunk at
a time and keeps the gradient of the hidden states, which is `vocabulary / hidden` times smaller.

Letters: K answer tokens, d hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from proper_model.kernels.layout import routing_dtype
from proper_model.kernels.packing import Batch, packed_inputs, token_nll
from proper_model.kernels.products import linear

# Causal LMs of Hugging Face whose logits are `lm_head(hidden)` and nothing else.
PLAIN_HEADS = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3"})
CHUNK = 1 << 22  # logits made at once: 16 MiB of float32


def answer_nll(base: Any, batch: Batch) -> Tensor:
    """Negative log-likelihood of every answer token: [K], float32 or wider.

    `base` is a causal LM that attends within rows (`packed_attention`).
    """
    head = base.get_output_embeddings()
    if base.config.model_type not in PLAIN_HEADS or head.weight.requires_grad:
        return token_nll(answer_logits(base, batch), batch.answers)
    hidden = base.get_decoder()(**packed_inputs(batch)).last_hidden_state[0]
    picked = hidden.index_select(0, batch.answer_at)  # [K, d]
    nll: Tensor = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
        picked, head.weight, head.bias, batch.answers
    )
    return nll


def answer_logits(base: Any, batch: Batch) -> Tensor:
    """Logits that predict the answer tokens, [K, V]."""
    logits: Tensor = base(**packed_inputs(batch), logits_to_keep=batch.answer_at).logits[0]
    return logits


class FrozenHeadLoss(torch.autograd.Function):
    """-log softmax(h W^T + c)[answer] for h [K, d], W [V, d], answers [K] -> [K].

    Its gradient `softmax - one-hot`, times W, is made in the forward pass while logits are at hand
    (the idea of Liger Kernel's fused cross-entropy, arXiv 2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, answers: Tensor
    ) -> Tensor:
        wide = routing_dtype(hidden)
        nll = hidden.new_empty(len(hidden), dtype=wide)
        wanted = ctx.needs_input_grad[0]
        d_hidden = torch.empty_like(hidden) if wanted else None
        rows = max(1, CHUNK // len(weight))
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = linear(hidden[part], weight, bias).to(wide)
            log_p = logits.log_softmax(-1)
            nll[part] = -log_p.gather(1, answers[part, None])[:, 0]
            if d_hidden is not None:
                d_logits = log_p.exp_()
                d_logits.scatter_add_(1, answers[part, None], -torch.ones_like(d_logits[:, :1]))
                d_hidden[part] = linear(d_logits.to(hidden.dtype), weight.T)
        if d_hidden is not None:
            ctx.save_for_backward(d_hidden)
        return nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (d_hidden,) = ctx.saved_tensors
        (d_nll,) = grads
        return d_hidden * d_nll[:, None].to(d_hidden.dtype), None, None, None
