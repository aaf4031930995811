"""How a person's base is held: as the release says, until somebody chooses; then it is remembered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from client.home import Home
from client.person import arms
from client.person.answering import Personal
from client.person.state import PersonalState, decode, encode
from client.person.stores import VaultStore
from client.person.workspace import Keys, Workspace
from proper_model.answering.pass_memory import inference_tokens
from proper_model.base.quantized import import_library
from proper_model.release import contents
from proper_model.settings.profile import BaseWeights
from tests.device_cli import Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users

needs_packing = pytest.mark.skipif(import_library() is None, reason="bitsandbytes is not installed")
STATE = PersonalState("b" * 64, 1, seed=7)


def test_the_document_knows_it_and_older_ones_do_not() -> None:
    for weights in (None, *BaseWeights):
        state = dataclasses.replace(STATE, base_weights=weights)
        assert decode(encode(state)).base_weights is weights
    assert b"base_weights" not in encode(STATE)


@pytest.fixture(scope="module")
def own_four_bit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two published releases that differ in their own setting: full, 4 bits."""
    made = quick_release()
    settings = dataclasses.replace(made.settings, base_weights=BaseWeights.FOUR_BIT)
    packed = dataclasses.replace(made, settings=settings)
    return (
        publish_release(made, tmp_path_factory.mktemp("full")),
        publish_release(packed, tmp_path_factory.mktemp("packed")),
    )


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How every base that is loaded is held."""
    seen: list[str] = []
    real = contents.load_checked_base

    def noted(*args: Any, **options: Any) -> Any:
        seen.append(options["weights"].value)
        return real(*args, **options)

    monkeypatch.setattr(contents, "load_checked_base", noted)
    return seen


def person_with(folder: Path, release: Path) -> tuple[Person, Path]:
    person = Person.make(folder)
    assert person.run("bundle", "add", release) == 0
    return person, write_jsonl(folder / "items.jsonl", small_users()[1][0].history[:12])


def state_of(person: Person) -> PersonalState:
    return VaultStore(Workspace(Home(person.home), Keys(person.passphrase_file)).open()).read()


@needs_packing
def test_a_release_that_packs_is_not_unpacked_because_nobody_chose(
    own_four_bit: tuple[Path, Path], tmp_path: Path, loaded: list[str]
) -> None:
    person, items = person_with(tmp_path, own_four_bit[1])
    assert person.run("adapt", items) == 0
    assert loaded == ["4bit"]
    assert state_of(person).base_weights is None


@needs_packing
def test_what_was_chosen_is_used_from_then_on(
    own_four_bit: tuple[Path, Path], tmp_path: Path, loaded: list[str]
) -> None:
    person, items = person_with(tmp_path, own_four_bit[0])
    assert person.run("adapt", items, "--base-weights", "4bit") == 0
    assert state_of(person).base_weights is BaseWeights.FOUR_BIT
    question = small_users()[1][0].history[0].fields
    assert person.run("generate", next(iter(question.values()))) == 0
    assert person.run("inspect") == 0
    assert person.run("forget", "--yes", "--items", "1") == 0
    assert person.run("export", "--format", "peft", "--out", tmp_path / "peft") == 0
    assert set(loaded) == {"4bit"}
    assert "held in 4bit" in (tmp_path / "peft" / "README.md").read_text()
    assert person.run("export", "--format", "merged", "--out", tmp_path / "merged") == 0
    assert "held in 4bit" in (tmp_path / "merged" / "README.md").read_text()
    assert person.run("adapt", items, "--base-weights", "full") == 0
    assert state_of(person).base_weights is None
    assert person.run("export", "--format", "peft", "--out", tmp_path / "plain") == 0
    assert "held in" not in (tmp_path / "plain" / "README.md").read_text()


def test_judging_keeps_to_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what predictions take under the same budget."""
    release = quick_release()
    asked: list[int] = []
    items = small_users()[1][0].history[:2]

    def answer(*_: object, tokens_per_step: int, **__: object) -> list[None]:
        asked.append(tokens_per_step)
        return [None for _ in items]

    monkeypatch.setattr(arms, "answer_queries", answer)
    settings = release.settings
    for budget in (None, 20 << 20):
        bound = dataclasses.replace(release, memory_bytes=budget)
        mine = Personal.of(bound, None, None)
        mine.judge(items, stage="1")
        longest = settings.max_prompt_tokens + settings.max_answer_tokens
        assert asked[-1] == inference_tokens(
            budget,
            mine.model,
            users=1,
            longest=longest,
            tokens=settings.tokens_per_step,
            answer=settings.max_answer_tokens,
        )
    if not torch.cuda.is_available():
        assert asked[1] < asked[0] == settings.tokens_per_step
