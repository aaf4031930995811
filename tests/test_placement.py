"""Actors, threads and nodes against numbers worked out by hand, and contradictions refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from proper_model.checks import base as base_check
from proper_model.checks import find_base
from proper_model.errors import ConfigError
from proper_model.settings.profile import BaseWeights
from proper_model.settings.shipped_profiles import load_profile
from simulations.setup import placement
from simulations.setup.placement import (
    ACTOR_BYTES,
    BaseBytes,
    Placement,
    choose_placement,
    free_memory_bytes,
)
from tests.tiny import tiny_base

GB = 1_000_000_000
PLENTY = 1000 * GB


def plain(size: int) -> BaseBytes:
    """A base that takes the same in full, held and while it is loaded."""
    return BaseBytes(size, size, size)


@pytest.mark.parametrize(
    ("users", "cores", "expected"),
    [
        (1, 1, (1, 1, 1)),
        (50, 1, (1, 1, 50)),
        (50, 2, (2, 1, 25)),
        (13, 2, (2, 1, 7)),
        (3, 16, (3, 1, 1)),  # an actor without a node would hold a base for nothing
        (5, 4, (3, 1, 2)),  # nodes of 2, 2 and 1: a fourth actor would end no sooner
        (256, 1, (1, 1, 256)),
        (257, 1, (1, 1, 129)),  # two turns of about the same size, not 256 and 1
        (1000, 3, (3, 1, 167)),  # 3 actors at 256 a turn hold 768, so two turns: 6 nodes
    ],
)
def test_cores_share_users_in_few_large_nodes(
    users: int, cores: int, expected: tuple[int, int, int]
) -> None:
    chosen = choose_placement(users=users, cores=cores, memory_bytes=PLENTY, base=plain(0))
    assert chosen == Placement(*expected)


@pytest.mark.parametrize(
    ("memory", "base", "expected"),
    [
        # An actor takes 1.5 GB and six times its base.
        (4 * GB, 0, (2, 1, 4)),
        (16 * GB, 1 * GB, (2, 1, 4)),
        (int(14.9 * GB), 1 * GB, (1, 1, 8)),
        (0, 1 * GB, (1, 1, 8)),  # one there must be; what it lacks it will say itself
    ],
)
def test_free_memory_bounds_actors(memory: int, base: int, expected: tuple[int, int, int]) -> None:
    chosen = choose_placement(users=8, cores=16, memory_bytes=memory, base=plain(base))
    assert chosen == Placement(*expected)


@pytest.mark.parametrize(
    ("gpus", "base", "memory", "expected"),
    [
        ((80 * GB,), 14 * GB, PLENTY, (1, 1, 100)),
        ((80 * GB, 80 * GB), 14 * GB, PLENTY, (2, 1, 50)),
        ((80 * GB, 8 * GB), 14 * GB, PLENTY, (1, 1, 100)),
        ((8 * GB,), 14 * GB, PLENTY, (1, 1, 100)),
        # While a process loads it holds the base once beside its own 1.5 GB: 2 x 15.5 > 30.
        ((80 * GB, 80 * GB), 14 * GB, 30 * GB, (1, 1, 100)),
    ],
)
def test_gpus_get_an_actor_each_where_the_base_fits(
    gpus: tuple[int, ...], base: int, memory: int, expected: tuple[int, int, int]
) -> None:
    chosen = choose_placement(
        users=100, cores=16, memory_bytes=memory, base=plain(base), gpu_memory_bytes=gpus
    )
    assert chosen == Placement(*expected)


def test_a_base_with_use_for_threads_gets_the_cores_that_actors_leave() -> None:
    several = {"memory_bytes": 2 * ACTOR_BYTES, "base": plain(0), "most_threads": 8}
    assert choose_placement(users=9, cores=6, **several) == Placement(2, 3, 5)
    assert choose_placement(users=9, cores=64, **several) == Placement(2, 8, 5)


@pytest.mark.parametrize(
    ("explicit", "expected"),
    [
        ({"users_per_node": 2}, (4, 1, 2)),
        ({"users_per_node": 8}, (1, 1, 8)),
        ({"users_per_node": 10**30}, (1, 1, 8)),
        ({"actors": 3}, (3, 1, 3)),
        ({"actors": 3, "users_per_node": 1}, (3, 1, 1)),
        ({"threads": 2}, (2, 2, 4)),
        ({"threads": 4, "actors": 1}, (1, 4, 8)),
    ],
)
def test_explicit_choices_win(explicit: dict[str, int], expected: tuple[int, int, int]) -> None:
    chosen = choose_placement(users=8, cores=4, memory_bytes=PLENTY, base=plain(0), **explicit)
    assert chosen == Placement(*expected)


def test_an_explicit_number_of_actors_outweighs_memory_and_gets_a_node_each() -> None:
    chosen = choose_placement(users=5, cores=4, memory_bytes=0, base=plain(GB), actors=4)
    assert chosen == Placement(4, 1, 1)


@pytest.mark.parametrize(
    ("explicit", "message"),
    [
        ({"actors": 5}, r"5 actors of 1 thread on 4 cores"),
        ({"threads": 5}, r"1 actor of 5 threads on 4 cores"),
        ({"actors": 2, "threads": 3}, r"2 actors of 3 threads"),
        ({"actors": 4, "users": 3}, r"4 actors for 3 nodes"),
        ({"actors": 2, "users_per_node": 8}, r"2 actors for 1 node:"),
        ({"actors": 0}, r"actors must be at least 1, got 0"),
        ({"users_per_node": -1}, r"users per node must be at least 1"),
        ({"users": 0}, r"users must be at least 1"),
    ],
)
def test_contradictions_are_refused(explicit: dict[str, int], message: str) -> None:
    values = {"users": 8, "cores": 4, "memory_bytes": PLENTY, "base": plain(0), **explicit}
    with pytest.raises(ConfigError, match=message) as caught:
        choose_placement(**values)
    assert caught.value.hint


def test_every_placement_has_a_node_for_every_actor_and_fits_the_cores() -> None:
    for users in range(1, 40):
        for cores in range(1, 9):
            for actors in (None, *range(1, min(users, cores) + 1)):
                chosen = choose_placement(
                    users=users, cores=cores, memory_bytes=PLENTY, base=plain(0), actors=actors
                )
                nodes = -(-users // chosen.users_per_node)
                assert nodes >= chosen.actors == (actors or chosen.actors)
                assert chosen.actors * chosen.threads <= cores


# -- what the machine has --------------------------------------------------------------------------


def test_cores_are_those_of_this_process(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert placement.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert placement.usable_cores() == 64


def test_free_memory_is_what_machine_and_container_leave(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * 1024))
    assert free_memory_bytes(tmp_path) == 5 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory_bytes(tmp_path) == 5 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert free_memory_bytes(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("500\n")
    assert free_memory_bytes(tmp_path) == 0


def test_a_base_is_counted_as_it_will_be_held(tmp_path: Path, monkeypatch) -> None:
    """Stored in bfloat16, computed in float32; of a folder, the hub's cache or a configuration."""
    base = tiny_base(dtype=torch.bfloat16)
    base.save_pretrained(tmp_path)
    numbers = sum(p.numel() for p in base.parameters())
    tiny = replace(load_profile("tiny"), dtype="float32")

    def found(name: str, **change: BaseWeights) -> BaseBytes:
        return placement.base_bytes(find_base(name), replace(tiny, **change))

    whole = found(str(tmp_path))
    assert (whole.full, whole.held) == (4 * numbers, 4 * numbers)
    assert whole.loading > whole.held
    packed = found(str(tmp_path), base_weights=BaseWeights.FOUR_BIT)
    assert packed.full == whole.full
    assert packed.held < 0.7 * whole.held
    monkeypatch.setattr(base_check, "base_folder", lambda _: tmp_path)
    assert found("org/model") == whole
    (tmp_path / "model.safetensors").unlink()
    assert found(str(tmp_path)) == whole


@pytest.mark.parametrize(
    ("base", "budget", "memory", "gpus", "actors"),
    [
        (BaseBytes(GB, GB, 8 * GB), GB, 12 * GB, (), 1),  # loading takes 8 GB: 1.5 + 8 GB each
        (BaseBytes(GB, GB, GB), GB, 12 * GB, (), 3),
        (BaseBytes(8 * GB, GB, 2 * GB), GB, 21 * GB, (), 6),  # packed: 1.5 + 2 GB each
        (plain(GB), 3 * GB, 12 * GB, (), 2),  # 1.5 GB, the base once and 3 GB of training
        (plain(GB), GB // 2, 16 * GB, (), 5),  # without a budget 16 GB hold 2 actors of 7.5 GB
        (plain(14 * GB), 10 * GB, PLENTY, (80 * GB, 20 * GB), 1),
    ],
)
def test_loading_and_the_budget_of_every_actor_bound_how_many_there_are(
    base: BaseBytes, budget: int, memory: int, gpus: tuple[int, ...], actors: int
) -> None:
    chosen = choose_placement(
        users=30,
        cores=16,
        memory_bytes=memory,
        base=base,
        gpu_memory_bytes=gpus,
        training_bytes=budget,
    )
    assert chosen.actors == actors
