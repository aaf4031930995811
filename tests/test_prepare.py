"""What `prepare` writes: each device its own user only, pinned root, one plan; resume and refusal.

`--plan` refuses what the run would refuse, and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from coordinator.consents import changing
from coordinator.keys import load_key
from proper_model.bundle.public_keys import key_id
from proper_model.bundle.trusted_root import Role, TrustedRoot
from proper_model.checks import base as base_check
from proper_model.data.users import write_oppu
from proper_model.errors import BaseModelError, ConfigError, DataError, StorageError
from proper_model.federation.run_plan import RunPlan, file_sha256
from proper_model.progress import silent
from proper_model.settings import Stage2People
from proper_model.tasks.records import Population
from proper_model.tasks.task import load_task
from simulations.setup import costs
from simulations.setup import prepare as prepare_module
from simulations.setup.estimate import Speed
from simulations.setup.options import RunOptions
from simulations.setup.placement import Machine
from simulations.setup.run_folder import check_out
from simulations.setup.sources import _tell
from simulations.synthetic import tiny_base
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.tiny_base import Pretraining, TinyShape, make_tiny_base

World = tuple[Path, Path, Population]
SHAPE = TinyShape(width=16, ffn=24, layers=1, heads=2)


def prepare(options: RunOptions) -> RunPlan:
    (run,) = options.runs()
    return prepare_module.prepare(run, silent)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data folder, a base folder and the population behind them."""
    root = tmp_path_factory.mktemp("world")
    synthetic = make_synthetic("synth_tag", preset="smoke")
    write_oppu(synthetic.population, root / "data")
    base = make_tiny_base(
        root / "base",
        synthetic.pretrain_texts[:64],
        vocabulary=synthetic.vocabulary,
        shape=SHAPE,
        training=Pretraining(epochs=1),
    )
    return root / "data", base, synthetic.population


@pytest.fixture
def options(world: World, tmp_path: Path) -> RunOptions:
    data, base, _ = world
    return RunOptions(
        data=str(data), out=tmp_path / "out", task="synth_tag", base=str(base), profile="demo"
    )


def test_every_device_gets_its_own_user_and_nothing_else(world: World, options: RunOptions) -> None:
    population = world[2]
    plan = prepare(options)
    assert RunPlan.load(plan.out / "plan.json") == plan
    assert len(plan.devices) == len(population.test)
    ids = [user.user_id for user in population.test]
    for entry, user in zip(plan.devices, population.test, strict=True):
        assert sorted(p.name for p in entry.folder.iterdir()) == ["root.json", "user.json"]
        content = json.loads((entry.folder / "user.json").read_text())
        assert [record["user_id"] for record in content] == [user.user_id]
        assert len(content[0]["profile"]) == len(user.history)
        assert stat.S_IMODE(entry.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((entry.folder / "user.json").stat().st_mode) == 0o600
    pooled = json.loads(plan.pooled_file.read_text())
    assert {record["user_id"] for record in pooled}.isdisjoint(ids)
    assert len(pooled) == len(population.pooled)


def test_plan_holds_settings_and_no_data(world: World, options: RunOptions) -> None:
    plan = prepare(replace(options, preset="device", seed=7, arms=("stage1", "stage3")))
    text = (plan.out / "plan.json").read_text()
    for user in world[2].test:
        assert user.queries[0].input not in text
        assert f'"{user.user_id}"' not in text
    assert (plan.preset, plan.seed, plan.arms) == ("device", 7, ("stage1", "stage3"))
    assert plan.stage_settings.name == "demo"
    assert plan.template == "short"
    assert plan.embed_base


def test_of_test_users_the_server_gets_histories_only_and_only_if_asked(
    world: World, options: RunOptions
) -> None:
    assert not prepare(options).personalized_file.exists()
    everybody = replace(options, out=options.out.with_name("all"), stage2_users="everybody")
    plan = prepare(everybody)
    assert plan.stage2_users is Stage2People.EVERYBODY
    assert plan.split == "given, stage 2 with test users' histories"
    test = world[2].test
    found = json.loads(plan.personalized_file.read_text())
    assert [record["user_id"] for record in found] == [user.user_id for user in test]
    assert [len(record["profile"]) for record in found] == [len(user.history) for user in test]
    assert not any(record["query"] for record in found)
    text = plan.personalized_file.read_text()
    assert not any(query.input in text for user in test for query in user.queries)
    with pytest.raises(ConfigError, match=r"differs in: --stage2-users"):
        prepare(replace(everybody, stage2_users="shuffled", resume=True))


def test_only_people_with_a_standing_consent_are_pooled_and_the_others_are_counted(
    world: World, options: RunOptions, tmp_path: Path
) -> None:
    file, (_, _, population) = tmp_path / "consents.json", world
    agreed = [user.user_id for user in (*population.pooled[1:], *population.test[:1])]
    with changing(file) as change:
        at = "2026-01-02T03:04:05Z"
        change.after = change.after.recorded(agreed, ["spring"], at).without(agreed[:1], at)
    asked = replace(options, consents=file, release_name="spring", stage2_users="everybody")
    plan = prepare(asked)
    pooled, personalized = (
        [user["user_id"] for user in json.loads(path.read_text())]
        for path in (plan.pooled_file, plan.personalized_file)
    )
    assert pooled == agreed[1:-1] and personalized == agreed[-1:]
    assert (plan.left_out, plan.consents, plan.release_name) == (2, file.resolve(), "spring")
    with changing(file) as change:
        change.after = change.after.without(agreed[1:2], at)
    with pytest.raises(ConfigError, match=r"--consents \(people agreed or withdrew since\)"):
        prepare(replace(asked, resume=True))
    with pytest.raises(DataError):  # nobody agreed to a release of that name
        prepare(replace(asked, release_name="autumn", out=tmp_path / "other"))
    with pytest.raises(ConfigError, match="--consents is missing"):
        replace(options, release_name="spring")
    with pytest.raises(ConfigError, match="1 to 64"):
        replace(asked, release_name="a b")


def test_a_population_only_run_says_so_and_drops_the_arms_of_groups(options: RunOptions) -> None:
    plan = prepare(replace(options, population_only=True, preset="paper"))
    assert (plan.preset, plan.structure.name) == ("paper", "population-only")
    assert plan.structure.population_only
    assert plan.arms == ("stage1", "stage3", "stage3-shuffled")
    assert RunPlan.load(plan.out / "plan.json").structure == plan.structure


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage2_users": "nobody"}, "unknown --stage2-users 'nobody'"),
        ({"population_only": True, "stage2_users": "everybody"}, "contradicts it"),
        ({"population_only": True, "arms": ("oppu-mlp",)}, "there is no arm oppu-mlp"),
    ],
)
def test_contradictions_about_stage_2_are_refused(
    options: RunOptions, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(options, **changes)  # type: ignore[arg-type]


def test_devices_pin_the_key_that_signs(options: RunOptions) -> None:
    plan = prepare(options)
    root = TrustedRoot.from_bytes((plan.devices[0].folder / "root.json").read_bytes())
    assert root.roles["root"].keys == (key_id(bytes.fromhex(plan.root_public_key)),)
    for name, role in (("root", "root"), ("release", "release"), ("release", "latest")):
        key = plan.server_folder / "keys" / f"{name}.pem"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert root.roles[role] == Role.of([load_key(key)])


def test_people_options_choose_and_cut(options: RunOptions) -> None:
    plan = prepare(replace(options, users=2, pooled_users=4, max_items=3, split="random:5"))
    assert len(plan.devices) == 2
    pooled = json.loads(plan.pooled_file.read_text())
    assert len(pooled) == 4
    assert all(len(record["profile"]) == 3 for record in pooled)
    assert plan.split == (
        "random:5, at most 4 pooled users, at most 2 test users, at most 3 items a user"
    )


def test_the_plan_names_as_many_inactive_users_as_there_are(
    world: World, options: RunOptions, capsys
) -> None:
    plan = prepare(replace(options, split="inactive:1000"))
    count = len(world[2].pooled) // 5
    assert len(plan.devices) == count
    assert plan.split == f"inactive:{count}"
    said = f"warning: split inactive:1000 takes {count} users: at most a fifth of the"
    assert said in capsys.readouterr().err
    again = replace(options, split="inactive:1000", resume=True)
    assert prepare(again) == plan


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pooled_users": 2}, DataError, "2 pooled users"),
        ({"split": "random:5000"}, ConfigError, "random:5000"),
    ],
)
def test_people_who_are_not_there_are_told_before_anything_is_written(
    options: RunOptions, change: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepare(replace(options, **change))  # type: ignore[arg-type]
    assert not options.out.exists()


def test_what_is_odd_about_the_data_is_said_but_not_all_of_it(
    world: World,
    options: RunOptions,
    tmp_path: Path,
    capsys,
) -> None:
    users = json.loads((world[0] / "user_others.json").read_text())
    users[0]["profile"][0]["date"] = "2024"
    (tmp_path / "user_others.json").write_text(json.dumps(users))
    prepare(replace(options, data=str(tmp_path), split="random:2"))
    assert capsys.readouterr().err == (
        "proper: warning: user_others.json, record 0, field profile: only some items have a date, "
        "so the file's order counts\n"
    )
    _tell([f"odd {n}" for n in range(9)])
    assert capsys.readouterr().err.splitlines()[4:] == [
        "proper: warning: odd 4",
        "proper: warning: and 4 more; proper-sim validate lists them",
    ]


def test_a_template_that_the_profile_asks_for_in_vain_is_said(
    options: RunOptions, tmp_path: Path, capsys
) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('name = "mine"\ntemplate = "rhymes"\n')
    mine = replace(options, profile=str(profile))
    plan = prepare(mine)
    own = load_task("synth_tag").template
    assert plan.template == own
    assert capsys.readouterr().err == (
        "proper: warning: task synth_tag has no template set 'rhymes', which profile mine asks "
        f"for; its own choice '{own}' is used\n"
    )
    prepare(replace(mine, template="short", out=tmp_path / "other"))
    assert capsys.readouterr().err == ""


def test_folds_rotate_so_that_everyone_is_a_test_user_once(
    world: World, options: RunOptions
) -> None:
    seen: list[str] = []
    whole = replace(options, folds=3)
    for fold, run in enumerate(whole.runs()):
        plan = prepare_module.prepare(run, silent)
        assert plan.out.name == f"fold-{fold}"
        seen += [
            json.loads((entry.folder / "user.json").read_text())[0]["user_id"]
            for entry in plan.devices
        ]
    everyone = [user.user_id for user in (*world[2].pooled, *world[2].test)]
    assert sorted(seen) == sorted(everyone)


def test_a_later_fold_with_too_few_people_is_refused_before_the_first(
    world: World, options: RunOptions
) -> None:
    everyone = len(world[2].pooled) + len(world[2].test)
    folds = everyone - 1  # two people in the first fold, one in each of the others
    first, *_, last = replace(options, folds=folds).runs()
    with pytest.raises(ConfigError, match=f"1 test user in the smallest of {folds} folds"):
        prepare_module.prepare(first, silent)
    assert not options.out.exists()
    # One fold that is asked for by itself is judged by itself; without the arm there is nothing to deal.
    (alone,) = replace(options, folds=folds, fold=0).runs()
    assert len(prepare_module.prepare(alone, silent).devices) == 2
    arms = tuple(arm for arm in options.arms if arm != "stage3-shuffled")
    *_, last = replace(options, folds=folds, arms=arms, out=options.out / "other").runs()
    assert len(prepare_module.prepare(last, silent).devices) == 1


def test_a_folder_in_use_is_refused_and_stays(options: RunOptions) -> None:
    options.out.mkdir()
    (options.out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty") as caught:
        prepare(options)
    assert "--resume" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="no run to resume"):
        prepare(replace(options, resume=True))
    assert [p.name for p in options.out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("which", ["out", "cache"])
@pytest.mark.parametrize(
    "whose",
    [
        "everybody's",
        pytest.param(
            "another's",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="giving away needs root"),
        ),
    ],
)
def test_a_folder_that_others_may_change_is_refused(
    options: RunOptions, which: str, whose: str
) -> None:
    folder = options.out if which == "out" else options.places.cache
    folder.mkdir(mode=0o755)
    if whose == "another's":
        os.chown(folder, 65534, 65534)
    else:
        folder.chmod(0o777)
    for check in (lambda chosen: check_out(chosen.places), prepare):
        with pytest.raises(StorageError, match="another account") as caught:
            check(options)
        assert str(folder) in caught.value.message
    assert list(folder.iterdir()) == []
    folder.chmod(0o775)  # the group is the owner's own on many systems
    os.chown(folder, os.geteuid(), -1)
    check_out(options.places)


def test_resume_finds_the_same_run(options: RunOptions) -> None:
    plan = prepare(options)
    stamp = (plan.out / "plan.json").stat().st_mtime_ns
    again = prepare(replace(options, resume=True, users_per_node=1, threads=2))
    assert again == plan
    assert (plan.out / "plan.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "--seed"),
        ({"preset": "paper"}, "--preset"),
        ({"profile": "small-gpu"}, "--profile"),
        ({"profile": "tiny"}, "--preset, --profile"),  # the usual one of that profile
        ({"arms": ("stage1",)}, "--arms"),
        ({"max_items": 4}, "--max-items"),
        ({"users": 2}, "--users"),
        ({"pooled_users": 4}, "--pooled-users"),
        ({"split": "random:3", "users": 3}, "--split, --users"),
        ({"task": "{task}"}, "--task"),
        ({"base": "{base}"}, "--base"),
        ({"folds": 3, "fold": 1}, "--fold, --folds"),
    ],
)
def test_resume_refuses_another_run_and_names_the_options(
    world: World,
    options: RunOptions,
    tmp_path: Path,
    change: dict[str, object],
    named: str,
) -> None:
    plan = prepare(options)
    places = {"task": tmp_path / "other.toml", "base": tmp_path / "copy"}
    places["task"].write_text(plan.task_toml + "\n# changed\n")
    shutil.copytree(world[1], places["base"])
    change = {k: v.format(**places) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises(ConfigError) as caught:
        prepare(replace(options, resume=True, **change))  # type: ignore[arg-type]
    assert caught.value.message.endswith(f" holds another run; it differs in: {named}")
    assert caught.value.hint is not None


def test_a_demo_that_differs_is_named_by_what_the_user_gave(tmp_path: Path, monkeypatch) -> None:
    # Without the seconds of pretraining: a demo's base is named by what it is made from.
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: None)
    demo = RunOptions(data="demo", out=tmp_path / "out", users=3)
    prepare(demo)
    for change, named in (
        ({"seed": 1}, "--seed"),
        ({"data": "demo:rate"}, "DATA"),
        ({"profile": "small-gpu"}, "--profile"),
    ):
        with pytest.raises(ConfigError) as caught:
            prepare(replace(demo, resume=True, **change))  # type: ignore[arg-type]
        assert caught.value.message.endswith(f"differs in: {named}")


def test_what_a_damaged_plan_says_to_do_works(options: RunOptions) -> None:
    plan = prepare(options)
    path = plan.out / "plan.json"
    path.write_text(path.read_text()[:100])
    again = replace(options, resume=True)
    with pytest.raises(ConfigError, match="Invalid JSON") as caught:
        prepare(again)
    assert "remove it, then repeat" in (caught.value.hint or "")
    path.unlink()
    assert prepare(again) == plan


def test_a_file_is_no_place_for_a_run(options: RunOptions, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in ("out", "cache"):
        with pytest.raises(ConfigError, match="file is a file, expected a folder") as caught:
            replace(options, **{place: file})  # type: ignore[arg-type]
        assert caught.value.hint == f"give another --{place}"


def test_a_run_that_was_moved_says_so(options: RunOptions) -> None:
    plan = prepare(options)
    moved = plan.out.rename(plan.out.with_name("moved"))
    with pytest.raises(ConfigError, match=r"differs in: --out \(the run was prepared in another"):
        prepare(replace(options, out=moved, resume=True))


def test_resume_refuses_when_the_data_changed(options: RunOptions) -> None:
    plan = prepare(options)
    user = plan.devices[0].folder / "user.json"
    user.write_bytes(user.read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"devices/d00000/user\.json"):
        prepare(replace(options, resume=True))


def test_only_other_histories_make_another_plan(
    world: World, options: RunOptions, tmp_path: Path
) -> None:
    first = prepare(options)
    user, *others = world[2].test
    shorter = replace(user, history=user.history[:-1])
    write_oppu(replace(world[2], test=(shorter, *others)), tmp_path / "data")
    # The same --out, after somebody removed the plan to start over.
    (first.out / "plan.json").unlink()
    again = prepare(replace(options, data=str(tmp_path / "data"), resume=True))
    assert again.fingerprint() != first.fingerprint()
    for entry in again.devices:
        assert file_sha256(entry.folder / "user.json") == entry.user_sha256


def test_a_preparation_killed_before_the_plan_is_done_again(options: RunOptions) -> None:
    plan = prepare(options)
    (plan.out / "plan.json").unlink()
    again = prepare(replace(options, resume=True))
    assert again == plan, "the key of the first attempt is kept"


@pytest.mark.parametrize("there", [False, True])
def test_a_base_that_fails_leaves_no_folder(options: RunOptions, there: bool) -> None:
    broken = options.out.with_name("broken")
    broken.mkdir()
    out = options.out.with_name("runs") / "deep" / "out"
    if there:
        out.mkdir(parents=True)
    with pytest.raises(BaseModelError):
        prepare(replace(options, base=str(broken), out=out))
    assert out.exists() == there
    assert out.parent.parent.exists() == there
    assert not there or list(out.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_before_a_base_is_trained(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(prepare_module, "load_source", lambda *_: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/out: Not a directory"):
        prepare(RunOptions(data="demo", out=tmp_path / "file" / "out"))


def test_processes_and_nodes_follow_from_the_machine_unless_told(
    options: RunOptions, monkeypatch
) -> None:
    monkeypatch.setattr(prepare_module, "this_machine", lambda: Machine(2, 1 << 40))
    with pytest.raises(ConfigError, match="3 actors of 1 thread on 2 cores"):
        prepare(replace(options, actors=3))
    chosen = prepare(options)
    assert (chosen.node_count, chosen.node_threads, chosen.actors) == (2, 1, None)
    told = prepare(replace(options, out=options.out.with_name("told"), actors=1))
    assert (told.node_count, told.actors) == (1, 1)


def test_more_devices_a_node_than_there_are_is_all_of_them(options: RunOptions) -> None:
    plan = prepare(replace(options, users_per_node=10**30))
    assert plan.users_per_node == len(plan.devices)


@pytest.mark.parametrize("what", ["prepare", "plan", "plan of a run to go on with"])
def test_the_base_is_read_once(
    world: World,
    options: RunOptions,
    monkeypatch,
    what: str,
) -> None:
    if what.endswith("go on with"):
        prepare(options)
        options = replace(options, resume=True)
    read: Counter[str] = Counter()

    def count(where: object, name: str, key: str) -> None:
        whole = getattr(where, name)

        def counting(*given: object, **named: object) -> object:
            read[key] += name != "from_pretrained" or str(given[0]) == str(world[1])
            return whole(*given, **named)

        monkeypatch.setattr(where, name, counting)

    count(AutoConfig, "from_pretrained", "config")
    count(AutoTokenizer, "from_pretrained", "tokenizer")
    count(base_check, "empty_model", "modules")
    count(base_check, "read_shape", "headers")
    monkeypatch.setattr(costs, "measure", lambda *_, **__: Speed(forward=1e5, training=3e4))
    if what == "prepare":
        prepare(options)
    else:
        costs.plan_costs(options, silent)
    # transformers reads the configuration once more, for the tokenizer.
    assert read == {"config": 2, "tokenizer": 1, "modules": 1, "headers": 1}


# What `--plan` says before


@pytest.fixture
def demo(tmp_path: Path, monkeypatch) -> RunOptions:
    measured = Speed(forward=1e5, training=3e4)
    monkeypatch.setattr(costs, "measure", lambda *_, **__: measured)
    return RunOptions(data="demo", out=tmp_path / "runs" / "out", users=3)


def test_a_plan_of_the_demo_trains_and_leaves_nothing(
    demo: RunOptions, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: pytest.fail("pretrains"))
    found = costs.plan_costs(demo, silent)
    assert found.total_seconds.high > 0
    assert list(tmp_path.iterdir()) == []


def test_a_plan_looks_at_out_as_the_run_does(demo: RunOptions, monkeypatch) -> None:
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: None)
    plan = prepare(demo)
    before = sorted(path for path in plan.out.rglob("*"))
    with pytest.raises(ConfigError, match="is not empty"):
        costs.plan_costs(demo, silent)
    with pytest.raises(ConfigError, match="is not empty"):
        costs.plan_costs(replace(demo, folds=3), silent)
    with pytest.raises(ConfigError, match="differs in: --seed"):
        costs.plan_costs(replace(demo, seed=1, resume=True), silent)
    same = replace(demo, resume=True)
    assert costs.plan_costs(same, silent).total_seconds.high > 0
    assert sorted(path for path in plan.out.rglob("*")) == before


@pytest.mark.parametrize("more", [{"users": 1}, {"split": "random:1"}])
def test_one_test_user_has_nobody_to_be_shuffled_with(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    """Before anything is read or trained; without the control, one is enough."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("data were read")

    alone = replace(options, **more)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "load_source", never)
        patch.setattr(costs, "load_source", never)
        for start in (prepare, lambda given: costs.plan_costs(given, silent)):
            with pytest.raises(ConfigError, match=r"1 test user: arm stage3-shuffled") as raised:
                start(alone)
            assert "--arms stage1,stage2-mean,stage2,oppu-mlp,stage3" in str(raised.value.hint)
    assert not options.out.exists()
    plan = prepare(replace(alone, arms=("stage1", "stage3")))
    assert len(plan.devices) == 1


def test_data_with_one_test_user_are_refused_before_anything_is_written(
    world: World, options: RunOptions, tmp_path: Path
) -> None:
    population = replace(world[2], test=world[2].test[:1])
    write_oppu(population, tmp_path / "one")
    with pytest.raises(ConfigError, match=r"1 test user: arm stage3-shuffled"):
        prepare(replace(options, data=str(tmp_path / "one")))
    assert not options.out.exists()
