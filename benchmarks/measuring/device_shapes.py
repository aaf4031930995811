"""The memory model for bases that are too large to train here, from one and two of their blocks.

Everything the model counts is a sum over blocks, so two small models give the slope and what is
beside it. Shapes are those of public configurations; weights are random.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch

from benchmarks.contenders.build import llama_of
from benchmarks.contenders.workload import Ids
from benchmarks.kinds import SIZES, Shape
from benchmarks.results.schema import Predicted
from proper_model.base.config import empty_model
from proper_model.base.sizes import BaseShape
from proper_model.engine.memory import MemoryModel
from proper_model.engine.memory_budget import memory_model
from proper_model.engine.trials import TrialSettings, lora_settings
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


SHAPES = {
    "135M (SmolLM2)": SIZES["135m"],
    "1B (Llama 3.2)": SIZES["1b"],
    "7B (Llama 2)": SIZES["7b"],
}


def predict(
    shape: str, structure: Structure, settings: StageSettings, *, sample_tokens: int
) -> list[Predicted]:
    """Base, loading and training bytes of a shape for every way to hold and to compute it."""
    found = []
    parameters = empty_model(llama_of(SHAPES[shape])).named_parameters()
    base = BaseShape.of({name: tuple(p.shape) for name, p in parameters})
    trial = lora_settings(settings, epochs=settings.user.epochs)
    for dtype, recompute in itertools.product(DTYPES, (False, True)):
        trial = dataclasses.replace(trial, recompute=recompute)
        few, more = (
            _model_of(
                dataclasses.replace(SHAPES[shape], layers=layers, vocabulary=PROBE_VOCABULARY),
                dtype,
                structure,
                trial,
                sample_tokens,
            )
            for layers in (1, 2)
        )
        training = _training_bytes(SHAPES[shape].layers, few, more, settings, sample_tokens)
        found += [
            Predicted(
                shape=shape,
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
    shape: Shape,
    dtype: torch.dtype,
    structure: Structure,
    settings: TrialSettings,
    sample_tokens: int,
) -> MemoryModel:
    """The memory model of a base of this shape."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(llama_of(shape), dtype=dtype)
    model = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(0))
    model.requires_grad_(False)
    encoder = Encoder(Ids(), max_prompt_tokens=sample_tokens, max_answer_tokens=8)
    longest = Encoded(tuple(range(2, 2 + sample_tokens)), sample_tokens - 8)
    return memory_model(model, encoder, longest, settings)


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
