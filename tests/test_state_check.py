"""A state from elsewhere is stored only if it can be worked with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.person.state import PersonalState, encode
from client.person.state_check import check_fits, check_state
from client.person.stores import VaultStore
from client.releases.store import InstalledBundle, installed
from client.vault import backup
from client.vault.opening import open_vault
from client.vault.secrets import Passphrase
from proper_model.errors import VaultError
from tests.age_files import seal
from tests.device_cli import CANARY, PASSPHRASE, Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users

NAME = "synth_tag"
Change = Callable[[PersonalState], PersonalState]


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    folder = tmp_path_factory.mktemp("person")
    made = Person.make(folder)
    release = quick_release()
    assert made.run("bundle", "add", publish_release(release, folder / "published")) == 0
    history = small_users()[1][0].history
    assert made.run("adapt", write_jsonl(folder / "h.jsonl", history)) == 0
    return made


@pytest.fixture(scope="module")
def state(person: Person) -> PersonalState:
    return VaultStore(open_vault(person.home / "vault", Passphrase(PASSPHRASE))).read()


@pytest.fixture(scope="module")
def bundle(person: Person) -> InstalledBundle:
    found = installed(person.home)
    assert found is not None
    return found


def task(**changes: object) -> Change:
    def change(state: PersonalState) -> PersonalState:
        return state.with_task(NAME, dataclasses.replace(state.tasks[NAME], **changes))  # type: ignore[arg-type]

    return change


def item(**changes: object) -> Change:
    def change(state: PersonalState) -> PersonalState:
        first, *rest = state.tasks[NAME].items
        return task(items=(dataclasses.replace(first, **changes), *rest))(state)  # type: ignore[arg-type]

    return change


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Change:
    def changed(state: PersonalState) -> PersonalState:
        adapter = dict(state.tasks[NAME].adapter)
        change(adapter)
        return task(adapter=adapter)(state)

    return changed


def first(adapter: dict[str, Tensor], half: str) -> str:
    return next(key for key in adapter if key.endswith(f".{half}"))


def renamed(state: PersonalState) -> PersonalState:
    return dataclasses.replace(state, tasks={"other": state.tasks[NAME]})


def embedded(embedding: Tensor | None) -> Change:
    return lambda state: dataclasses.replace(state, embedding=embedding)


def with_routers(wide: int = 0) -> Change:
    """A LoRA-aware router of the person's own at every linear, `wide` numbers too wide."""

    def add(adapter: dict[str, Tensor]) -> None:
        for name in [name for name in adapter if name.endswith(".B")]:
            adapter[name[:-1] + "W"] = torch.zeros(5, len(adapter[name]) + wide)

    return tensors(add)


UNUSABLE: dict[str, tuple[Change, str]] = {
    "no task file": (task(toml=CANARY), "task 'synth_tag' cannot be read by this version"),
    "no template": (task(template="later"), "cannot be read by this version"),
    "another name": (renamed, "another name"),
    "no such release": (lambda s: dataclasses.replace(s, bundle_id="x"), "names no release"),
    "no field": (item(fields={CANARY: CANARY}), "item 1: lacks a field"),
    "no date": (item(date=CANARY), "item 1: its date"),
    "no id": (item(id=""), "item 1: without an id of its own"),
    "nan": (embedded(torch.full((1, 8), float("nan"))), "the embedding holds values that are not"),
    "flat": (embedded(torch.zeros(8)), "the embedding is torch.float32 of shape"),
    "integers": (embedded(torch.zeros(1, 8, dtype=torch.int64)), "expected a matrix of floats"),
    "no embedding": (embedded(None), "there is no embedding"),
    "half a pair": (tensors(lambda a: a.pop(first(a, "B"))), "do not match each other"),
    "a foreign tensor": (tensors(lambda a: a.update({CANARY: torch.ones(1, 1)})), "no factor"),
    "a router of one linear": (
        tensors(lambda a: a.update({first(a, "B")[:-1] + "W": torch.ones(5, 8)})),
        "do not match each other",
    ),
    "infinite": (
        tensors(lambda a: a.update({k: v / 0 for k, v in a.items()})),
        "values that are not finite",
    ),
    "another rank": (
        tensors(lambda a: a.update({k: v[:1] for k, v in a.items() if k == first(a, "A")})),
        "do not match each other",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_could_not_be_worked_with_is_refused(state: PersonalState, case: str) -> None:
    change, message = UNUSABLE[case]
    check_state(state)
    with pytest.raises(VaultError, match=message) as caught:
        check_state(change(state))
    assert caught.value.hint
    assert CANARY not in f"{caught.value.message}{caught.value.hint}"


def test_two_items_of_one_id(state: PersonalState) -> None:
    items = state.tasks[NAME].items
    with pytest.raises(VaultError, match=f"item {len(items) + 1}: without an id of its own"):
        check_state(task(items=(*items, items[0]))(state))


UNFIT: dict[str, tuple[Change, str]] = {
    "embedding": (embedded(torch.zeros(3, 7)), r"the embedding has shape \(3, 7\)"),
    "wide": (
        tensors(lambda a: a.update({k: v.repeat(1, 2) for k, v in a.items() if k.endswith("A")})),
        r"lora\..*\.A has shape .*, its release expects",
    ),
    "other linears": (
        tensors(lambda a: [a.pop(first(a, "A")[:-1] + half) for half in "BA"]),
        "adapts other linears",
    ),
    "wide routers": (with_routers(1), r"lora\..*\.W has shape .*, its release expects"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_shapes_are_those_of_the_release(
    state: PersonalState, bundle: InstalledBundle, case: str
) -> None:
    change, message = UNFIT[case]
    check_fits(state, bundle.manifest)
    changed = change(state)
    check_state(changed)
    with pytest.raises(VaultError, match=message):
        check_fits(changed, bundle.manifest)


def test_routers_of_ones_own_fit_beside_the_factors(
    state: PersonalState, bundle: InstalledBundle
) -> None:
    own = with_routers()(state)
    check_state(own)
    check_fits(own, bundle.manifest)


def test_of_stage_1_alone_no_expert_shows_what_fits(
    state: PersonalState, bundle: InstalledBundle
) -> None:
    """Its adapter is then compared with the model when it is loaded (`stack_adapters`)."""
    shared = bundle.manifest.files["shared.safetensors"]
    assert shared.tensors is not None
    kept = {name: one for name, one in shared.tensors.items() if name == "mean_embedding"}
    alone = bundle.manifest.model_copy(
        update={"files": {"shared.safetensors": shared.model_copy(update={"tensors": kept})}}
    )
    check_fits(state, alone)
    with pytest.raises(VaultError, match="the embedding has shape"):
        check_fits(embedded(torch.zeros(3, 7))(state), alone)


def test_few_items_without_an_adapter_are_fine(
    state: PersonalState, bundle: InstalledBundle
) -> None:
    few = task(adapter={})(state)
    check_state(few)
    check_fits(few, bundle.manifest)


def test_import_stores_nothing_that_is_refused(
    person: Person, state: PersonalState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def put(name: str, content: PersonalState) -> Path:
        now = datetime.now(UTC).replace(microsecond=0)
        held = backup.Backup(encode(content), now, state.bundle_id)
        path = tmp_path / name
        path.write_bytes(seal(backup.encode(held), PASSPHRASE))
        return path

    def stored() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (person.home / "vault").iterdir() if p.is_file()}

    secret = ["--backup-passphrase-file", person.passphrase_file, "--replace"]
    before = stored()
    for change in (UNUSABLE["no task file"][0], UNFIT["embedding"][0]):
        capsys.readouterr()
        assert person.run("import", put("bad.age", change(state)), *secret) == 46
        told = capsys.readouterr()
        assert not told.out
        assert "what is stored here is unchanged" in told.err
        assert stored() == before
    assert person.run("import", put("good.age", state), *secret) == 0
    capsys.readouterr()
    assert person.run("inspect", "--items", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["listed"]
    assert [row["id"] for row in rows] == [one.id for one in state.tasks[NAME].items]
