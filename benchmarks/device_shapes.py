"""The memory model for bases that are too large to train here, from one and two of their blocks.

Everything the model counts is a sum over blocks, so two small models give the slope and what is
beside it. Shapes are those of public configurations; weights are random.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.schema_device import Foretold
from proper_model.base.config import empty_model
from proper_model.base.sizes import BaseShape
from proper_model.engine.memory import MemoryModel
from proper_model.engine.memory_budget import memory_model
from proper_model.engine.trials import lora_settings
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.settings.presets import Structure
from proper_model.settings.profile import BaseWeights, StageSettings
from proper_model.text.encoding import Encoder

# What a base is computed in: float32 on a CPU with dtype auto, whatever its files store; bfloat16
# on a GPU, and on a CPU where a profile asks for it.
DTYPES = (torch.float32, torch.bfloat16)
# Logits are made at a few answer tokens only, so that the vocabulary adds next to nothing.
PROBE_VOCABULARY = 1024


@dataclass(frozen=True)
class PublicShape:
    """What of a published configuration the memory depends on."""

    name: str
    hidden: int
    layers: int
    ffn: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool

    def config(self, layers: int) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            hidden_size=self.hidden,
            num_hidden_layers=layers,
            intermediate_size=self.ffn,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            pad_token_id=0,
        )


SHAPES = (
    PublicShape("135M (SmolLM2)", 576, 30, 1536, 9, 3, 49152, tied=True),
    PublicShape("1B (Llama 3.2)", 2048, 16, 8192, 32, 8, 128256, tied=True),
    PublicShape("7B (Llama 2)", 4096, 32, 11008, 32, 32, 32000, tied=False),
)


class _NoTokenizer:
    eos_token_id, pad_token_id, chat_template = 1, 0, None


def foretell(
    shape: PublicShape, structure: Structure, settings: StageSettings, *, sample_tokens: int
) -> list[Foretold]:
    """Base, loading and training bytes of a shape for every way to hold and to compute it."""
    found = []
    parameters = empty_model(shape.config(shape.layers)).named_parameters()
    base = BaseShape.of({name: tuple(p.shape) for name, p in parameters})
    for dtype in DTYPES:
        for recompute in (False, True):
            few, more = (
                _model_of(shape, layers, dtype, structure, settings, sample_tokens, recompute)
                for layers in (1, 2)
            )
            training = _training_bytes(shape.layers, few, more, settings, sample_tokens)
            found += [
                Foretold(
                    shape=shape.name,
                    parameters=base.numbers,
                    weights=weights.value,
                    dtype=str(dtype).removeprefix("torch."),
                    recompute=recompute,
                    base_bytes=base.held_bytes(weights, dtype.itemsize),
                    loading_bytes=base.loading_bytes(weights, dtype.itemsize),
                    training_bytes=training + base.product_bytes(weights, dtype.itemsize),
                )
                for weights in BaseWeights
            ]
    return found


def _model_of(
    shape: PublicShape,
    layers: int,
    dtype: torch.dtype,
    structure: Structure,
    settings: StageSettings,
    sample_tokens: int,
    recompute: bool,
) -> MemoryModel:
    """The memory model of the first blocks of a shape."""
    from transformers import AutoModelForCausalLM

    small = dataclasses.replace(shape, vocabulary=PROBE_VOCABULARY)
    base = AutoModelForCausalLM.from_config(small.config(layers), dtype=dtype)
    model = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(0))
    model.requires_grad_(False)
    encoder = Encoder(_NoTokenizer(), max_prompt_tokens=sample_tokens, max_answer_tokens=8)
    longest = Encoded(tuple(range(2, 2 + sample_tokens)), sample_tokens - 8)
    trial = dataclasses.replace(
        lora_settings(settings, epochs=settings.user.epochs), recompute=recompute
    )
    return memory_model(model, encoder, longest, trial)


def _training_bytes(
    layers: int,
    few: MemoryModel,
    more: MemoryModel,
    settings: StageSettings,
    sample_tokens: int,
) -> int:
    """The peak of all blocks: what one block adds, times the blocks, and what is beside them."""
    trials = len(settings.user.learning_rates)
    tokens = min(settings.tokens_per_step, trials * settings.user.batch_size * sample_tokens)
    one, two = (model.peak(trials, tokens, trials) for model in (few, more))
    return one + (layers - 1) * (two - one)
