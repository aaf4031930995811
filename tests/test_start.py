"""`proper start`: from a base and a task to an adapter, without a coordinator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_new_task import MOODS, options

from client.bases.finding import folder_of
from client.bases.known import known_base
from client.home import Home
from client.person.workspace import Workspace
from client.releases import pinned_root
from client.releases.add import add_bundle
from client.releases.installed_list import list_bundles
from client.releases.last_seen import MAX_ACCEPTED, Announcement
from client.releases.own import (
    check_no_publisher,
    place_in,
    public_name,
    start_release,
    usual_settings,
)
from client.releases.pinned_root import decide_trust, load_root
from client.releases.place import ReleasePlace
from client.releases.store import Accepted, installed, read_state, write_state
from coordinator.root_ceremony import create_root
from proper_model.base.folder import file_hashes, revision_of
from proper_model.base.reference import reference_base
from proper_model.bundle.trusted_root import LATEST, OWN_CHANNEL, RELEASE, ROOT, TrustedRoot
from proper_model.checks import load_base
from proper_model.errors import (
    BaseModelError,
    BundleForeignError,
    ConfigError,
    StateError,
)
from proper_model.settings import load_profile
from proper_model.storage.canonical import MAX_INTEGER
from proper_model.tasks.records import HistoryItem
from proper_model.tasks.task import load_task
from tests.bundle_samples import fixed_key
from tests.device_cli import Person, publish_release, quick_release, write_jsonl
from tests.documents import document
from tests.releases import small_base, small_users

PROFILE = """extends = "tiny"
name = "quick"
[user]
epochs = 1
learning_rates = [3e-3]
"""
REFUSED = {"config": 11, "task": 12, "base": 15, "storage": 20, "rollback": 36}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "quick.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    items = small_users()[1][0].history[:12]
    return write_jsonl(tmp_path_factory.mktemp("history") / "h.jsonl", items)


@pytest.fixture(scope="module")
def begun_home(profile: Path, history: Path, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Somebody who started and adapted; copied, never changed."""
    person = Person.make(tmp_path_factory.mktemp("begun"))
    assert start(person, profile) == 0
    assert person.run("adapt", history) == 0
    return person


@pytest.fixture
def begun(begun_home: Person, tmp_path: Path) -> Person:
    home = shutil.copytree(begun_home.home, tmp_path / "home")
    return Person(home, begun_home.passphrase_file)


def start(person: Person, profile: Path, *words: str | Path, task: str = "synth_tag") -> int:
    base = () if "--base" in words else ("--base", small_base())
    return person.run("start", *base, "--task", task, "--profile", profile, *words)


def asked(person: Person, stage: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """An answer, and what was said beside it."""
    capsys.readouterr()
    assert person.run("generate", small_users()[1][0].queries[0].input, "--stage", stage) == 0
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_a_base_and_a_history_are_enough(begun: Person, capsys) -> None:
    for stage in ("1", "3"):
        answer, said = asked(begun, stage, capsys)
        assert answer
        assert "warning" not in said
    assert begun.run("generate", "a film", "--stage", "2") == REFUSED["config"]
    assert begun.run("inspect") == 0
    assert begun.run("bundle", "verify") == 0
    begun.run("doctor")
    assert "your own, of proper start" in capsys.readouterr().out


def test_no_time_is_expected_for_an_embedding_that_nothing_reads(
    begun: Person, history: Path, capsys
) -> None:
    capsys.readouterr()
    assert begun.run("adapt", history, "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert {phase["name"] for phase in plan["phases"]} == {"adapter"}


def test_the_first_stage_is_the_base_as_it_is_and_there_is_no_key(begun: Person) -> None:
    workspace = Workspace(Home(begun.home))
    release = workspace.load(workspace.installed())
    base, _ = load_base(str(small_base()), computing=torch.float32)
    theirs = dict(base.named_parameters())
    ours = dict(release.base.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].float(), theirs[name].float()) for name in theirs)
    assert release.structure.population_only
    assert sorted(path.name for path in begun.home.iterdir()) == [
        ".lock", "bases.json", "bundles", "root.json", "vault",
    ]  # fmt: skip
    root = load_root(begun.home / "root.json")
    assert (root.channel, len(root.keys)) == (OWN_CHANNEL, 1)
    files = [path for path in begun.home.rglob("*") if path.is_file()]
    assert not [path.name for path in files if b"PRIVATE KEY" in path.read_bytes()]


def test_a_publishers_release_takes_its_place(
    begun: Person, profile: Path, tmp_path: Path, capsys
) -> None:
    published = publish_release(quick_release(), tmp_path / "published")
    assert begun.run("bundle", "add", published) == 0
    assert "fingerprint" in capsys.readouterr().err
    _, said = asked(begun, "3", capsys)
    assert "goes on over your own release 1; release 1 is installed" in said
    assert "warning" not in said, "its key was not stolen"
    assert begun.run("rebase") == 0
    for stage in ("1", "2", "3"):
        assert asked(begun, stage, capsys)[0]
    before = (begun.home / "root.json").read_bytes()
    assert start(begun, profile) == REFUSED["config"]
    assert "follows a publisher" in capsys.readouterr().err
    assert (begun.home / "root.json").read_bytes() == before
    stranger = tmp_path / "stranger"
    shutil.copytree(published, stranger)
    (stranger / "root.json").write_bytes(TrustedRoot.of([fixed_key(9)]).to_bytes())
    assert begun.run("bundle", "add", stranger) == 37, "a publisher's root gives way to nobody's"


def test_a_move_that_fails_leaves_ones_own(begun: Person, tmp_path: Path, capsys) -> None:
    published = publish_release(quick_release(), tmp_path / "published")
    (bundle,) = published.glob("v*")
    (bundle / "task.toml").write_bytes(b"name = 1\n")
    before = (begun.home / "root.json").read_bytes()
    assert begun.run("bundle", "add", published) != 0
    assert (begun.home / "root.json").read_bytes() == before
    assert asked(begun, "3", capsys)[0]


def test_again_is_the_same_release_and_something_else_the_next(
    begun: Person, profile: Path, history: Path, tmp_path: Path, capsys
) -> None:
    (first,) = list_bundles(Home(begun.home))
    shared = begun.home / "bundles" / first.bundle_id / "shared.safetensors"
    whole = shared.read_bytes()
    shared.write_bytes(whole[:-1])
    assert start(begun, profile) == 0
    out, said = capsys.readouterr()
    assert "installed already" in out
    assert "what you had already" in said
    assert start(begun, profile, "--json") == 0
    assert not document(capsys.readouterr().out, "start")["changed"]
    assert shared.read_bytes() == whole, "what was damaged is mended"
    assert [row.bundle_id for row in list_bundles(Home(begun.home))] == [first.bundle_id]

    assert begun.run("new-task", tmp_path / "moods.toml", *options(*MOODS)) == 0
    capsys.readouterr()
    assert start(begun, profile, task=str(tmp_path / "moods.toml")) == 0
    assert capsys.readouterr().out.startswith("your own release 2 ")
    _, said = asked(begun, "3", capsys)
    assert "goes on over your own release 1; your own release 2 is installed" in said
    assert "warning" not in said
    assert begun.run("rebase") == 0
    assert asked(begun, "3", capsys)[0]
    damaged = begun.home / "bundles" / list_bundles(Home(begun.home))[-1].bundle_id
    (damaged / "manifest.json").unlink()
    assert start(begun, profile, task=str(tmp_path / "moods.toml")) == 0
    assert capsys.readouterr().out.startswith("your own release 3 ")


def test_behind_the_highest_version_comes_the_first_again(
    begun: Person, profile: Path, tmp_path: Path, capsys
) -> None:
    """Such a number comes with a copy: it must not end `start` for ever."""
    state = read_state(begun.home)
    assert state is not None
    write_state(begun.home, state.model_copy(update={"version": MAX_INTEGER - 1}))
    for task, version in (("moods", MAX_INTEGER), ("tempers", 1)):
        file = tmp_path / f"{task}.toml"
        assert begun.run("new-task", file, *options(task, *MOODS[1:])) == 0
        capsys.readouterr()
        assert start(begun, profile, task=str(file)) == 0
        assert capsys.readouterr().out.startswith(f"your own release {version} ")
    bundle = installed(begun.home)
    assert bundle is not None
    assert bundle.version == 1


def test_it_does_not_expire(begun: Person) -> None:
    later = datetime.now(UTC) + timedelta(days=3000)
    bundle = installed(begun.home, now=later)
    assert bundle is not None
    assert bundle.warnings == ()


def test_a_copy_goes_to_another_device(
    profile: Path, history: Path, tmp_path: Path, capsys
) -> None:
    first, second = Person.make(tmp_path / "first"), Person.make(tmp_path / "second")
    out = tmp_path / "copy"
    assert start(first, profile, "--out", out) == 0
    assert "bundle add" in capsys.readouterr().err
    assert start(first, profile, "--out", out) == REFUSED["storage"], "never written over"
    other = shutil.copytree(small_base(), tmp_path / "base of another place")
    assert second.run("bundle", "add", out / "v00000001", "--base", other) == 0
    assert second.run("adapt", history) == 0
    ids = [list_bundles(Home(person.home))[0].bundle_id for person in (first, second)]
    assert ids[0] == ids[1]
    shutil.rmtree(other)
    assert second.run("generate", "a film") == REFUSED["base"]
    assert "proper start" in capsys.readouterr().err
    published = publish_release(quick_release(), tmp_path / "published")
    assert second.run("bundle", "add", published) == 0


def test_what_is_refused_leaves_nothing(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    person = Person.make(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"weights")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    (tmp_path / "empty").mkdir()
    extra = shutil.copytree(small_base(), tmp_path / "extra")
    (extra / "adapter_config.json").write_text("{}")
    for base, expected in (
        ("nowhere/at-all", "nothing there, expected a folder"),
        ("weights.bin", "a file of another kind"),
        ("broken.gguf", "broken.gguf"),
        ("missing.gguf", "missing.gguf"),
        ("empty", "config.json"),
        ("extra", "adapter_config.json"),
    ):
        code = start(person, profile, "--base", base)
        assert code in (REFUSED["base"], REFUSED["storage"], 13), base
        said = capsys.readouterr().err
        assert expected in said
        assert "internal" not in said
    assert start(person, profile, task="no_such_task") == REFUSED["task"]
    assert "politeness_ratings" in capsys.readouterr().err
    assert start(person, profile, task="mine.toml") == REFUSED["task"]
    assert start(person, Path("no-profile")) == REFUSED["config"]
    assert installed(person.home) is None
    assert not (person.home / "root.json").exists()
    assert not Path("bases").exists()


def test_a_gguf_file_is_a_base(
    profile: Path, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pytest.importorskip("gguf")
    from tests.test_gguf_base import write

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.gguf")
    person = Person.make(tmp_path / "person")
    assert start(person, profile, "--base", "mine.gguf", task="politeness_ratings") == 0
    assert "bases/mine" in capsys.readouterr().err
    rated = tuple(HistoryItem(str(n), {"text": f"ab {n}", "score": "3"}) for n in range(6))
    assert person.run("adapt", write_jsonl(tmp_path / "rated.jsonl", rated)) == 0
    assert person.run("generate", "a b", "--stage", "3") == 0


def test_names_and_profiles_of_bases(tmp_path: Path) -> None:
    assert known_base("smollm2") is known_base("SmolLM2-135M-Instruct")
    assert public_name(tmp_path / "My model, v2") == "My-model-v2"
    assert public_name(tmp_path / "…") == "base"
    assert usual_settings(small_base()).name == "own-tiny"


@pytest.mark.parametrize(
    ("stored", "native", "computed"),
    [("bfloat16", True, "bfloat16"), ("bfloat16", False, "auto"), ("float32", True, "auto")],
)
def test_a_base_in_bfloat16_is_computed_in_it_where_the_processor_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, native: bool, computed: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base(), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": stored}))
    monkeypatch.setattr("client.releases.own.SMALL_BASE_NUMBERS", 0)
    monkeypatch.setattr("proper_model.base.loading.multiplies_bfloat16", lambda: native)
    settings = usual_settings(base)
    assert settings.dtype == computed
    assert settings == dataclasses.replace(load_profile("own"), dtype=computed)


def test_only_a_folder_of_the_hubs_cache_says_its_revision(tmp_path: Path) -> None:
    cached = tmp_path / "models--org--small" / "snapshots" / ("ab" * 20)
    ours = tmp_path / "snapshots" / "two words"
    for folder in (cached, ours):
        folder.mkdir(parents=True)
    assert (public_name(cached), revision_of(cached)) == ("org/small", "ab" * 20)
    assert public_name(ours) == "two-words"
    assert re.fullmatch("[0-9a-f]{40}", revision_of(ours))


def test_an_address_needs_the_publishers_root(begun: Person, tmp_path: Path) -> None:
    """As on a device that trusts nobody: what a server says of itself counts for nothing."""
    home, theirs = Home(begun.home), TrustedRoot.of([fixed_key(5)])
    place = ReleasePlace({}, lambda *_: theirs.to_bytes(), Announcement(remote=True))
    with pytest.raises(ConfigError, match="trusts no publisher"):
        decide_trust(home, place, None)
    (tmp_path / "root.json").write_bytes(theirs.to_bytes())
    trust = decide_trust(home, place, tmp_path / "root.json")
    assert (trust.root, trust.pinned) == (theirs, False)


def test_no_publisher_takes_the_channel_of_ones_own(tmp_path: Path) -> None:
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(2)]
    signers = ([keys[1]], 1)
    roles = {ROOT: ([keys[0]], 1), RELEASE: signers, LATEST: signers}
    with pytest.raises(ConfigError, match="channel 'own'"):
        create_root(tmp_path, roles, now=datetime.now(UTC), channel=OWN_CHANNEL)
    assert not (tmp_path / "root.json").exists()


def test_only_the_root_that_start_makes_gives_way(begun: Person, tmp_path: Path) -> None:
    """A publisher whose channel happens to be `own` stays pinned: such a root has roles."""
    home = Home(begun.home)
    assert load_root(home.root_file).is_own
    keys, now = [fixed_key(number) for number in (1, 2, 3)], datetime.now(UTC)
    roles = {ROOT: (keys[:1], 1), RELEASE: (keys[1:2], 1), LATEST: (keys[2:], 1)}
    later = now + timedelta(days=300)
    theirs = TrustedRoot.with_roles(roles, created=now, expires=later, channel=OWN_CHANNEL)
    for pinned in (
        theirs,
        TrustedRoot.of(keys[:1], version=2, channel=OWN_CHANNEL),
        TrustedRoot.of(keys[:2], channel=OWN_CHANNEL),
        TrustedRoot.of(keys[:1]),
    ):
        assert not pinned.is_own
        home.root_file.write_bytes(pinned.to_bytes())
        stranger = TrustedRoot.of([fixed_key(9)], version=pinned.version, channel=OWN_CHANNEL)
        place = ReleasePlace({}, lambda name, _, s=stranger: s.to_bytes(), Announcement())
        with pytest.raises(BundleForeignError):
            decide_trust(home, place, None)
        with pytest.raises(ConfigError, match="follows a publisher"):
            check_no_publisher(home)


def test_many_releases_of_ones_own_do_not_hide_a_publishers_older_one(
    begun: Person, tmp_path: Path, capsys
) -> None:
    """What is remembered has a limit, and versions of one's own may be higher than a publisher's."""
    state = read_state(begun.home)
    assert state is not None
    made = [
        Accepted(version=99 + n, bundle_id=f"{n:064x}", keys=(f"{n:064x}",))
        for n in range(MAX_ACCEPTED)
    ]
    write_state(begun.home, state.model_copy(update={"accepted": tuple(made)}))
    release = quick_release()
    published = publish_release(release, tmp_path / "published")
    (older,) = published.glob("v*")
    longer = dataclasses.replace(release.settings.user, epochs=3)
    settings = dataclasses.replace(release.settings, user=longer)
    publish_release(dataclasses.replace(release, settings=settings), published)
    assert begun.run("bundle", "add", published) == 0
    assert begun.run("bundle", "add", older) == REFUSED["rollback"]
    state = read_state(begun.home)
    assert state is not None
    assert [entry.version for entry in state.accepted] == [2]


def test_a_root_whose_writing_is_interrupted_is_taken_back(
    begun: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, write = Home(begun.home), pinned_root.pin_root
    before, interruptions = home.root_file.read_bytes(), [KeyboardInterrupt]

    def written_then_stopped(path: Path, root: TrustedRoot) -> None:
        write(path, root)
        if interruptions:
            raise interruptions.pop()

    monkeypatch.setattr(pinned_root, "pin_root", written_then_stopped)
    with (
        pytest.raises(KeyboardInterrupt),
        pinned_root.pinning(home, TrustedRoot.of([fixed_key(5)])),
    ):
        pytest.fail("the root is not whole yet")
    assert home.root_file.read_bytes() == before


def test_a_base_that_was_renamed_is_the_same(
    profile: Path, history: Path, tmp_path: Path, capsys
) -> None:
    person = Person.make(tmp_path / "person")
    base = shutil.copytree(small_base(), tmp_path / "a name with blanks, \u00e9")
    assert start(person, profile, "--base", base) == 0
    assert person.run("adapt", history) == 0
    base = base.rename(tmp_path / "another name")
    assert person.run("generate", "a film") == REFUSED["base"]
    capsys.readouterr()
    assert start(person, profile, "--base", base) == 0
    assert "installed already" in capsys.readouterr().out
    assert person.run("generate", "a film") == 0


def test_a_copy_is_put_where_it_can_be_used_or_nowhere(
    profile: Path, tmp_path: Path, capsys
) -> None:
    person = Person.make(tmp_path / "person")
    link = tmp_path / "link"
    link.symlink_to(person.home.parent)
    for out, expected in (
        (person.home, "expected a folder elsewhere"),
        (person.home / "vault", "expected a folder elsewhere"),
        (link / "home" / "bundles" / "copy", "expected a folder elsewhere"),
        (tmp_path / "no folder" / "copy", "is to lie in is not there"),
    ):
        assert start(person, profile, "--out", out) == REFUSED["storage"]
        assert expected in capsys.readouterr().err
    assert not person.home.exists()


def test_a_copy_is_of_a_release_that_others_still_take(
    begun: Person, profile: Path, tmp_path: Path
) -> None:
    home, task = Home(begun.home), load_task("synth_tag")
    first = installed(begun.home)
    assert first is not None
    later = first.manifest.expires_at + timedelta(days=1)
    settings = load_profile(profile)
    again = start_release(home, small_base(), task, settings, now=later)
    assert (again.bundle.bundle_id, again.changed) == (first.bundle_id, False)
    copied = start_release(home, small_base(), task, settings, out=tmp_path / "copy", now=later)
    assert copied.changed
    other = Home(tmp_path / "other")
    place = place_in(tmp_path / "copy", copied.bundle)
    assert add_bundle(other, str(place), base=str(small_base()), now=later).changed


def test_a_base_that_cannot_be_looked_at_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BaseModelError, match="cannot be looked at"):
        folder_of("x" * 5000)
    with pytest.raises(ConfigError, match="no home folder is known"):
        folder_of("~nobody-of-that-name/base")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(BaseModelError, match="cannot be looked at"):
        folder_of(str(tmp_path))


def test_no_command_stumbles_over_the_home_of_nobody(tmp_path: Path, capsys) -> None:
    person, nobody = Person.make(tmp_path), "~nobody-of-that-name/x"
    given: list[tuple[object, ...]] = [
        ("new-task", f"{nobody}.toml", *options(*MOODS)),
        ("bundle", "add", nobody),
    ]
    given += [("base", "add", f"{nobody}.gguf")]
    for arguments in given:
        assert person.run(*arguments) == REFUSED["config"]
        assert "no home folder is known" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no home folder is known"):
        Home.find(Path(nobody))


def test_files_of_a_base_are_hashed_once_and_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = small_base()
    hashes = file_hashes(folder, lambda done, total: told.append((done, total)))
    by_hand = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert hashes == by_hand
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert told[-1] == (size, size)
    assert revision_of(folder, hashes) == revision_of(folder)
    assert reference_base(folder, "a/b", "c", hashes) == reference_base(folder, "a/b", "c")


def test_a_damaged_root_of_ones_own_says_what_to_do(begun: Person) -> None:
    home = Home(begun.home)
    whole = home.root_file.read_bytes()
    try:
        home.root_file.write_bytes(b"{")
        with pytest.raises(StateError, match="that of a release of your own") as error:
            check_no_publisher(home)
        assert "proper start" in (error.value.hint or "")
    finally:
        home.root_file.write_bytes(whole)
