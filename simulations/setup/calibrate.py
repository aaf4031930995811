"""How fast this machine runs a base model of a given shape: a few seconds of measuring.

Only `config.json` of the base is needed. One or two of its layers are built with random weights
and run; time per layer times the number of layers is the model's. So a 7B base can be judged
without downloading it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from proper_model.base.config import empty_model, size, text_config
from proper_model.base.loading import attention_for, default_device
from proper_model.base.sizes import BaseShape
from proper_model.checks import cut_depth

PROBE_LAYERS = 2
PROBE_VOCABULARY = 1024  # the head runs on answers only, so its full width would mislead
MIN_SECONDS = 0.4


@dataclass(frozen=True)
class Shape:
    """What of a base model its cost depends on; `parameters` counts the whole base, `linears` the
    weights of each linear in its blocks.
    """

    layers: int
    hidden: int
    ffn: int
    parameters: int
    linears: tuple[int, ...] = ()

    @property
    def base(self) -> BaseShape:
        """The numbers that its memory depends on."""
        return BaseShape(self.linears, self.parameters - sum(self.linears))

    @property
    def user_lora(self) -> int:
        """Rank-one parameters of a LoRA on gate, up and down; times rank is a user's (1.3)."""
        return (3 * self.hidden + 3 * self.ffn) * self.layers


@dataclass(frozen=True)
class Speed:
    """Tokens a second through the frozen base, one process."""

    forward: float
    training: float  # forward and backward


def shape_of(config: Any) -> Shape:
    """Counts parameters on the meta device: no memory, no weights."""
    model = empty_model(config)
    layers, hidden, ffn = (
        size(config, name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    base = BaseShape.of({name: tuple(p.shape) for name, p in model.named_parameters()})
    return Shape(layers, hidden, ffn, base.numbers, base.linears)


def measure(config: Any, *, tokens: int, batch: int, dtype: torch.dtype, threads: int) -> Speed:
    """Run a slice of the model on random tokens. `tokens` is the length of one row."""
    from transformers import AutoModel

    device, text = default_device(), text_config(config)
    layers = min(PROBE_LAYERS, size(text, "num_hidden_layers"))
    share = layers / size(text, "num_hidden_layers")
    slim = cut_depth(text, layers)
    slim.vocab_size = PROBE_VOCABULARY
    slim.pad_token_id = None
    model = AutoModel.from_config(
        slim, dtype=dtype, attn_implementation=attention_for(device, dtype)
    )
    model.to(device).eval().requires_grad_(False)
    ids = torch.randint(PROBE_VOCABULARY, (batch, tokens), device=device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        forward = _seconds(lambda: _forward(model, ids))
        training = _seconds(lambda: _train(model, ids))
    finally:
        torch.set_num_threads(before)
    count = batch * tokens * share
    return Speed(forward=count / forward, training=count / training)


def _forward(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)


def _train(model: Any, ids: torch.Tensor) -> None:
    inputs = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    model(inputs_embeds=inputs, use_cache=False).last_hidden_state.float().sum().backward()


def _seconds(run: Any) -> float:
    """Median time of one call after a warm-up."""
    run()
    times: list[float] = []
    while sum(times) < MIN_SECONDS and len(times) < 50:
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
