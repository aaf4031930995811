"""Planted people over a tiny random base, for methods that are compared with PROPER."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from proper_model.evaluation import Prediction
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release, shared_tensors
from proper_model.settings.presets import preset
from proper_model.settings.profile import GroupSettings, StageSettings, UserSettings
from proper_model.tasks.records import HistoryItem, Query, User
from proper_model.tasks.task import task_from_toml
from simulations.baselines.arm import Benchmark
from tests.tiny import tiny_base, words

TASK = task_from_toml("""
name = "planted"
kind = "classification"
template = "short"
fields = ["text", "tag"]
metrics = ["accuracy", "nll"]
[labels]
values = ["w0", "w1", "w2", "w3"]
[history.item]
prompt = "{text}"
answer = "{tag}"
[templates.short]
query = "{text}"
history = "item"
line = "{text} {tag}"
""")
SETTINGS = StageSettings(
    name="planted",
    max_prompt_tokens=16,
    max_answer_tokens=4,
    tokens_per_step=2048,
    dtype="float32",
    weight_decay=0.0,
    max_grad_norm=1.0,
    held_back_fraction=0.2,
    group=GroupSettings(learning_rate=1e-2),
    user=UserSettings(learning_rates=(1e-2,), epochs=3, batch_size=4, min_items_to_train=4),
)


def person(name: str, tag: int, *, items: int = 8, queries: int = 2, first: int = 4) -> User:
    """Somebody who answers every text with one tag; texts are of twelve words from `first` on."""
    rng = random.Random(name)
    texts = [
        " ".join(f"w{rng.randrange(first, first + 12)}" for _ in range(4))
        for _ in range(items + queries)
    ]
    return User(
        name,
        tuple(
            HistoryItem(f"{name}-{i}", {"text": text, "tag": f"w{tag}"})
            for i, text in enumerate(texts[:items])
        ),
        tuple(Query(f"{name}-q{i}", text, f"w{tag}") for i, text in enumerate(texts[items:])),
    )


def release() -> Release:
    """A random base whose head can be sure of an answer, and no trained stage."""
    base = tiny_base(dtype=torch.float32)
    with torch.no_grad():
        base.lm_head.weight *= 20
    structure = preset("default")
    model = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(0))
    return Release(
        base=base,
        tokenizer=words(),
        task=TASK,
        structure=structure,
        settings=SETTINGS,
        seed=0,
        shared=shared_tensors(model),
        population={},
        notes={},
    )


def benchmark(folder: Path, pooled: list[User], users: list[User]) -> Benchmark:
    return Benchmark(release=release(), pooled=pooled, users=users, seed=0, folder=folder)


def mean_loss(predictions: list[Prediction]) -> float:
    """Per answer token."""
    return sum(p.nll for p in predictions) / sum(p.answer_tokens for p in predictions)
