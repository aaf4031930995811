"""The loaded release outlives messages, rounds and nodes of one process, and nothing else does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from federation import flower_identity, make_federation, settings
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.node import flower_app, host_work
from client.node.host_work import Engine
from client.releases.loading import ReleaseMemory
from coordinator.keys import load_key
from coordinator.publish import PublishedBundle, publish
from coordinator.shipment import Shipment
from proper_model.base.checked import CheckedFiles, load_checked_base
from proper_model.checks.outside_base import load_base
from proper_model.engine import memory
from proper_model.federation.protocol import Kind, Status, request_fields
from proper_model.federation.run_plan import RunPlan
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release import contents
from proper_model.release.contents import Release, release_to_files, shared_tensors
from proper_model.settings.presets import preset
from proper_model.stages.user_embedding import published_embeddings
from proper_model.tasks.task import load_task

__all__ = ["flower_identity"]  # a fixture, used by name

ROUND = {
    Kind.STORE: flower_app.store,
    Kind.INSTALL: flower_app.install,
    Kind.PERSONALIZE: flower_app.personalize,
    Kind.EVALUATE: flower_app.evaluate,
}


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return make_federation(tmp_path / "out", devices=4, users_per_node=2, arms=("stage1", "stage3"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every load of a base and its tokenizer, from an empty cache on."""
    seen: list[str] = []

    def counted(fields: Any, tokenizer: Any, files: CheckedFiles, **options: Any) -> object:
        seen.append(str(files.folder))
        return load_checked_base(fields, tokenizer, files, **options)

    monkeypatch.setattr(contents, "load_checked_base", counted)
    monkeypatch.setattr(host_work, "RELEASES", ReleaseMemory())
    return seen


def publish_untrained(plan: RunPlan, *, seed: int = 0) -> PublishedBundle:
    """A release whose adapters are as they were drawn: only that it is loaded matters."""
    base, tokenizer = load_base(plan.base)
    structure = preset(plan.preset)
    drawn = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(seed))
    table = torch.zeros(12, *drawn.embedding_shape)
    release = Release(
        base=base,
        tokenizer=tokenizer,
        task=load_task("LaMP_3", template="short"),
        structure=structure,
        settings=settings(),
        seed=seed,
        shared={**shared_tensors(drawn), **published_embeddings(table, settings(), seed)},
        population={},
        notes={},
    )
    return publish(
        release_to_files(release),
        plan.server_folder / "release",
        [load_key(plan.server_folder / "keys" / "release.pem")],
        created=datetime.now(UTC),
        valid_for_days=1,
    )


def play(plan: RunPlan, bundle: PublishedBundle, kind: Kind, node: int) -> str:
    """One message to node 0 or 1; the status of its answer."""
    shipment = Shipment.of_folder(bundle.bundle_id, bundle.path)
    fields: dict[str, object] = {}
    if kind is Kind.STORE:
        pieces = list(shipment.table.all_pieces())
        fields = {"pieces": pieces, "data": [shipment.piece(sha) for sha in pieces]}
    elif kind is Kind.INSTALL:
        fields = dict(shipment.table.to_fields())
    content = RecordDict({"config": ConfigRecord(request_fields(kind, bundle.bundle_id, **fields))})
    context = Context(
        run_id=1,
        node_id=5,
        node_config={"partition-id": node, "num-partitions": 2},
        state=RecordDict(),
        run_config={"plan": str(plan.out / "plan.json")},
    )
    reply = ROUND[kind](Message(content, 5, kind.value), context)
    return str(reply.content["config"]["status"])


def test_base_and_tokenizer_are_loaded_once_for_all_nodes_and_rounds_of_a_process(
    plan: RunPlan, loads: list[str]
) -> None:
    bundle = publish_untrained(plan)
    for kind in ROUND:
        for node in (0, 1):
            assert play(plan, bundle, kind, node) == Status.OK.value
    assert len(loads) == 1
    first = Engine(1).release(plan.node_folder(0), bundle.bundle_id)
    second = Engine(1).release(plan.node_folder(1), bundle.bundle_id)
    assert first is second
    assert first.base is second.base
    assert first.tokenizer is second.tokenizer
    assert len(loads) == 1
    for node in (0, 1):
        assert set(json.loads((plan.node_folder(node) / "timings.json").read_text())) == {
            *("install", "load"),
            *(f"personalize: {step}" for step in ("tokenize", "embedding", "stage3")),
            *(f"evaluate: {arm}" for arm in plan.arms),
        }


@pytest.mark.parametrize("budget", [None, 1 << 30])
def test_what_becomes_of_freed_memory_is_said_once_a_message(
    plan: RunPlan, loads: list[str], monkeypatch: pytest.MonkeyPatch, budget: int | None
) -> None:
    bundle = publish_untrained(plan)
    for kind in (Kind.STORE, Kind.INSTALL):
        assert play(plan, bundle, kind, 0) == Status.OK.value
    told: list[object] = []
    monkeypatch.setattr(memory, "_give_back", told.append)
    Engine(1, memory_bytes=budget).release(plan.node_folder(0), bundle.bundle_id)
    assert told == [memory.HUGE_BLOCKS if budget is None else (memory.LARGE_BLOCK,)]
    assert len(loads) == 1


def test_another_release_takes_the_place_of_the_one_before(plan: RunPlan, loads: list[str]) -> None:
    kept = []
    for seed in (0, 1):
        bundle = publish_untrained(plan, seed=seed)
        for kind in (Kind.STORE, Kind.INSTALL):
            assert play(plan, bundle, kind, 0) == Status.OK.value
        kept.append(Engine(1).release(plan.node_folder(0), bundle.bundle_id))
    assert kept[0] is not kept[1]
    assert len(loads) == 2
    assert host_work.RELEASES._loaded[1] is kept[1]
