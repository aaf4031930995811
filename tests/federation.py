"""A whole federation in small: a random word-level base, pooled users, device folders, a plan."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from coordinator.run_keys import make_run_root
from proper_model.federation.run_plan import DeviceEntry, RunPlan, file_sha256
from proper_model.settings.profile import (
    GroupSettings,
    PopulationSettings,
    RouterSettings,
    StageSettings,
    UserSettings,
)
from proper_model.settings.settings_io import to_mapping
from proper_model.storage.files import make_private_folder, write_atomic
from proper_model.tasks.records import HistoryItem, Query, User, users_to_json
from proper_model.tasks.task import load_task
from simulations.synthetic.tiny_base import TinyShape, _save, tiny_llama, word_tokenizer

WORDS = ("red", "blue", "green", "cold", "warm", "loud", "quiet", "old", "new", "kept")
CANARY = "zqxcanaryzq"
MARKER = "without further explanation. review: "


def settings() -> StageSettings:
    """One short epoch of everything: what is tested is the way, not the goal."""
    return StageSettings(
        name="federation-test",
        template="short",
        max_prompt_tokens=32,
        max_answer_tokens=4,
        tokens_per_step=4096,
        dtype="float32",
        population=PopulationSettings(rank=2, epochs=1, batch_size=8),
        group=GroupSettings(epochs=1, batch_size=8, prototypes=1),
        router=RouterSettings(cohort=4, epochs=1, batch_size=8),
        user=UserSettings(epochs=1, batch_size=4, embedding_epochs=1),
    )


def make_user(name: str, *, items: int = 6, queries: int = 2, seed: int = 0) -> User:
    rng = random.Random(f"{seed}/{name}")

    def words() -> str:
        return " ".join([*rng.choices(WORDS, k=4), CANARY])

    history = tuple(
        HistoryItem(f"{name}-h{i}", {"text": words(), "score": str(rng.randint(1, 5))})
        for i in range(items)
    )
    asked = tuple(
        Query(f"{name}-q{i}", MARKER + words(), str(rng.randint(1, 5))) for i in range(queries)
    )
    return User(name, history, asked)


def make_base(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(sorted({*WORDS, CANARY, "review:", "score:", *"12345"}))
    shape = TinyShape(width=16, ffn=24, layers=2, heads=2, context=48)
    model = tiny_llama(len(tokenizer), shape, pad=tokenizer.pad_token_id)
    _save(model, tokenizer, folder)
    return folder


def write_users(path: Path, users: tuple[User, ...]) -> None:
    make_private_folder(path.parent)
    write_atomic(path, json.dumps(users_to_json(users)).encode())


def make_federation(
    out: Path,
    *,
    devices: int = 3,
    users_per_node: int = 2,
    arms: tuple[str, ...] = ("stage1", "stage2-mean", "stage2", "stage3"),
    base: bool = True,
    **changes: object,
) -> RunPlan:
    """Everything a run starts from, below `out`; the plan is written too.

    Without `base` no model is made, for tests that load none.
    """
    make_private_folder(out)
    run_root = make_run_root(out / "server", now=datetime.now(UTC))
    pooled = tuple(make_user(f"pooled{i}", seed=1) for i in range(12))
    write_users(out / "server" / "pooled.json", pooled)
    entries = []
    for i in range(devices):
        folder = out / "devices" / f"d{i}"
        write_users(folder / "user.json", (make_user(f"user{i}", seed=2),))
        entry = DeviceEntry(
            device_id=f"d{i}", folder=folder, user_sha256=file_sha256(folder / "user.json")
        )
        write_atomic(entry.folder / "root.json", run_root.root_bytes)
        entries.append(entry)
    values: dict[str, object] = {
        "name": "federation-test",
        "task_toml": load_task("LaMP_3").toml_text,
        "template": "short",
        "base": str(make_base(out / "base") if base else out / "base"),
        "preset": "default",
        "settings": to_mapping(settings()),
        "seed": 0,
        "arms": arms,
        "pooled_file": out / "server" / "pooled.json",
        "devices": tuple(entries),
        "users_per_node": users_per_node,
        "out": out,
        "cache": out / "cache",
        "root_public_key": run_root.public_key,
        "message_timeout_s": 120.0,
        "round_timeout_s": 120.0,
    }
    plan = RunPlan.model_validate({**values, **changes})
    plan.save()
    return plan


@pytest.fixture(autouse=True)
def flower_identity(monkeypatch):
    """Flower fills this in when it starts an app; a Message cannot be made without it."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
