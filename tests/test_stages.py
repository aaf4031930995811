"""The pooled stages: cached, resumed, shared between presets, and private about their users."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.person.adapting import adapt_users
from client.person.answering import Personal
from client.person.arms import predict
from coordinator import pooled_stages as stages_module
from coordinator.phase_cache import PhaseCache
from coordinator.phase_checks import check_learned
from coordinator.pooled_stages import run_pooled_stages
from coordinator.step_curves import read_curve
from proper_model.engine.checkpoint import load_checkpoint, save_checkpoint
from proper_model.engine.pooled_settings import PooledReport
from proper_model.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NothingLearnedError,
    TrainingError,
)
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release, expected_starts, release_to_files
from proper_model.settings.calibration import Calibrated, Calibration
from proper_model.settings.presets import UserRouting, preset
from proper_model.settings.profile import CalibrationSettings, StageSettings
from proper_model.stages import calibration, common_lora, pooled_users
from proper_model.stages.calibration import Found
from proper_model.stages.group import first_embeddings
from proper_model.stages.pooled_users import (
    PooledUser,
    pool,
    router_cohort,
    with_shuffled_identities,
)
from proper_model.stages.user_embedding import published_embeddings
from proper_model.tasks.task import load_task
from proper_model.text.encoding import Encoder
from tests.releases import SMALL, release_in_memory, small_base, small_users
from tests.test_encoding import WordTokenizer
from tests.tiny import encoder as fake_encoder
from tests.tiny import samples

STRUCTURE = dataclasses.replace(preset("default"), embedding_dim=8)
FAST = dataclasses.replace(
    SMALL,
    population=dataclasses.replace(SMALL.population, epochs=1, batch_size=16),
    group=dataclasses.replace(SMALL.group, epochs=1, batch_size=16, max_items_per_user=8),
    router=dataclasses.replace(SMALL.router, batch_size=8),
    user=dataclasses.replace(SMALL.user, epochs=1, batch_size=2, embedding_epochs=1),
)


@pytest.fixture(scope="module")
def base() -> Path:
    return small_base()


@pytest.fixture(scope="module")
def trained_cache(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has every phase; copy it to change something in it."""
    cache = tmp_path_factory.mktemp("trained")
    stages(base, cache)
    return cache


@pytest.fixture
def cache(trained_cache: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained_cache, tmp_path / "cache"))


def stages(
    base: Path,
    cache: Path,
    preset_name: str = "default",
    *,
    settings: StageSettings = FAST,
    **knobs: object,
) -> Release:
    return run_pooled_stages(
        small_users()[0],
        load_task("synth_tag"),
        str(base),
        dataclasses.replace(preset(preset_name), embedding_dim=8),
        settings,
        seed=0,
        cache=cache,
        **knobs,  # type: ignore[arg-type]
    )


def trained(phases: list[str]) -> Callable[[str, int, int], None]:
    """Note the phases that do something; those without a total are announced only."""
    return lambda phase, done, total: phases.append(phase) if total else None


def test_killed_anywhere_the_stages_go_on_and_end_with_the_same_tensors(
    base: Path, tmp_path: Path
) -> None:
    whole: list[str] = []
    expected = stages(base, tmp_path / "whole", progress=trained(whole))
    assert list(dict.fromkeys(whole)) == ["population", "group", "router"]

    class KilledError(Exception):
        pass

    for phase in ("population", "group", "router"):

        def kill(now: str, done: int, total: int, phase: str = phase) -> None:
            if now == phase and done == 2:
                raise KilledError

        with pytest.raises(KilledError):
            stages(base, tmp_path / "killed", progress=kill)
    seen: list[str] = []
    resumed = stages(base, tmp_path / "killed", progress=trained(seen))
    assert set(seen) == {"router"}  # finished phases are not run again
    assert expected.shared.keys() == resumed.shared.keys()
    for name, tensor in expected.shared.items():
        assert torch.equal(tensor, resumed.shared[name]), name


def test_a_run_has_every_phases_curve_also_of_the_cache(
    base: Path, cache: Path, tmp_path: Path
) -> None:
    release = stages(base, cache, curves=tmp_path / "curves")  # trains nothing
    assert release.notes is not None
    for phase in ("population", "group", "router"):
        losses = [step.loss or 0.0 for step in read_curve(tmp_path / "curves" / f"{phase}.jsonl")]
        means = release.notes[phase]["training"]
        an_epoch = len(losses) // len(means)
        assert losses
        assert [
            sum(losses[i : i + an_epoch]) / an_epoch for i in range(0, len(losses), an_epoch)
        ] == pytest.approx(means)


def test_presets_share_stage_1_and_a_second_run_trains_nothing(base: Path, cache: Path) -> None:
    seen: list[str] = []
    stages(base, cache, "device", progress=trained(seen))
    assert set(seen) == {"group"}  # preset device has no W_l
    seen.clear()
    stages(base, cache, progress=trained(seen))
    assert seen == []


def test_presets_that_differ_in_stage_3_only_share_stage_2(base: Path, cache: Path) -> None:
    seen: list[str] = []
    run_pooled_stages(
        small_users()[0],
        load_task("synth_tag"),
        str(base),
        dataclasses.replace(STRUCTURE, name="other", user_routing=UserRouting.USER_AWARE),
        FAST,
        seed=0,
        cache=cache,
        progress=trained(seen),
    )
    assert seen == []


# -- calibration ---------------------------------------------------------------------------------

CALIBRATING = dataclasses.replace(
    FAST,
    calibration=CalibrationSettings(
        people=10, lengths=(2,), epochs=1, shrinkages=(1.0,), start_rounds=1
    ),
)


def calibrated(base: Path, cache: Path, **changes: object) -> Release:
    knobs = {"progress": changes.pop("progress")} if "progress" in changes else {}
    own = dataclasses.replace(CALIBRATING.calibration, **changes)  # type: ignore[arg-type]
    settings = dataclasses.replace(CALIBRATING, calibration=own)
    return stages(base, cache, settings=settings, **knobs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def calibrated_cache(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has every phase of a calibrated release."""
    cache = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooled_users, "MOST_CALIBRATING", 2)
        calibrated(base, cache)
    return cache


@pytest.fixture
def half_may_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small population's 24 pooled users are too few for ten of them to be a quarter."""
    monkeypatch.setattr(pooled_users, "MOST_CALIBRATING", 2)


def test_calibration_is_found_again_and_no_part_of_earlier_phases(
    base: Path,
    calibrated_cache: Path,
    half_may_calibrate: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    release = calibrated(base, calibrated_cache, progress=trained(seen))
    assert seen == []
    assert release.calibration is not None
    assert [row.items for row in release.calibration.stage3] == [2]
    assert release.notes["calibration"]["people"] == 10
    assert release.notes["users_trained"] + release.notes["users_held_back"] == 14
    ran: list[str] = []
    monkeypatch.setattr(common_lora, "common_start", lambda *_, **__: ran.append("start"))
    other = Found(Calibration(), (), {})
    monkeypatch.setattr(calibration, "calibrate", lambda *_, **__: ran.append("rows") or other)
    assert calibrated(base, calibrated_cache, weights=(0.5, 1.0)).calibration is None
    assert ran == ["rows"]
    calibrated(base, calibrated_cache, start_rounds=2)
    assert ran == ["rows", "start", "start", "rows"]
    calibrated(base, calibrated_cache, start_rounds=2)
    assert len(ran) == 4


def test_a_start_that_helps_is_shipped_and_another_is_not(
    base: Path, calibrated_cache: Path, half_may_calibrate: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Found(
        Calibration(stage3=(Calibrated(2, 1e-3, 1, 1.0, 1.0, 1.0, 1.0),)), ("stage3",), {}
    )
    monkeypatch.setattr(calibration, "calibrate", lambda *_, **__: found)
    release = calibrated(base, calibrated_cache, temperatures=(1.0,))
    sites = release.model().sites
    start = release.start("stage3", sites)
    assert start is not None
    assert any(factor.any() for factor in start[len(sites) :])
    assert release.start("oppu-mlp", sites) is None
    (expected, _) = expected_starts(STRUCTURE, sites)
    shipped = {n: tuple(t.shape) for n, t in release.shared.items() if n.startswith("starts.")}
    assert shipped == expected
    assert release.shared["starts.stage3.count"].item() >= 10
    back = release_in_memory(release_to_files(release))
    assert back.calibration == release.calibration
    there = back.start("stage3", sites) or ()
    assert all(torch.equal(a, b) for a, b in zip(start, there, strict=True))


def test_without_people_nothing_is_calibrated_and_the_notes_are_those_of_before(
    base: Path, cache: Path
) -> None:
    release = stages(base, cache)
    assert release.calibration is None
    assert "calibration" not in release.notes
    assert not list(cache.glob("calibration-*")) + list(cache.glob("starts-*"))


def test_people_who_calibrate_train_nothing_and_are_a_quarter_at_most() -> None:
    users, task = small_users()[0], load_task("synth_tag")
    encoder = Encoder(WordTokenizer(), max_prompt_tokens=64, max_answer_tokens=8)
    few, users = (
        users,
        [*users, *(dataclasses.replace(user, user_id=f"{user.user_id}9") for user in users)],
    )
    whole, data = (pool(users, task, encoder, settings, 0) for settings in (FAST, CALIBRATING))
    assert len(data.calibrating) == (len(users) - len(data.held_back)) // 4
    assert data.held_back == whole.held_back
    assert len(data.trained) + len(data.calibrating) == len(whole.trained)
    assert set(data.trained) | set(data.calibrating) == set(whole.trained)
    assert data.fingerprint() != whole.fingerprint()
    assert data.calibration_fingerprint() != whole.calibration_fingerprint()
    # A quarter that is too few to publish anything of trains like everybody.
    pools = (pool(few, task, encoder, settings, 0) for settings in (FAST, CALIBRATING))
    assert len({data.fingerprint() for data in pools}) == 1


# -- phases that end where they began --------------------------------------------------------------


def replaced(cache: Path, phase: str, change: Callable[[str, Tensor], Tensor], **notes: object):
    """Have `cache` hold another result of a phase, as if training had ended with it."""
    (path,) = cache.glob(f"{phase}-*/done.safetensors")
    found = load_checkpoint(path)
    assert found is not None
    tensors, meta = found
    meta["notes"] |= notes
    save_checkpoint(path, {name: change(name, tensor) for name, tensor in tensors.items()}, meta)


def without_b(name: str, tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if name.endswith((".B", ".lora_B.weight")) else tensor


def test_experts_that_never_moved_are_refused_with_the_learning_curve(
    base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"still zero.* 1\.5000 before training, then 1\.7500, 1\.6250$"
    losses = [1.5, 1.75, 1.625]
    replaced(cache, "group", without_b, held_back=losses)
    with pytest.raises(NothingLearnedError, match=said) as caught:
        stages(base, cache)
    assert "group.learning_rate" in str(caught.value.hint)
    # Not only from the cache: training that keeps its start, and the next attempt after it.
    shutil.rmtree(next(cache.glob("group-*")))

    def keep_the_start(
        model: AdaptedModel, _encoder: object, users: list[object], *_: object, **__
    ):
        return first_embeddings(model, len(users), 0), PooledReport(losses, [2.0, 2.0], 0)

    monkeypatch.setattr(stages_module, "train_group", keep_the_start)
    for _ in range(2):
        with pytest.raises(NothingLearnedError, match=said):
            stages(base, cache)
        monkeypatch.setattr(stages_module, "train_group", None)
    # One expert of one linear that moved is enough to answer otherwise, but not to tell people apart.
    seen: list[str] = []

    def one_moved(name: str, tensor: Tensor) -> Tensor:
        if name.endswith(".B") and not seen:
            seen.append(name)
            tensor = tensor.clone()
            tensor[0, 0, 0] = 1e-6
        return tensor

    replaced(cache, "group", one_moved)
    with pytest.raises(
        NothingLearnedError, match=r"where it was drawn.* 1\.7500, 1\.6250$"
    ) as caught:
        stages(base, cache)
    assert "--population-only" in str(caught.value.hint)
    # A router that reads the text alone needs nobody's embedding.
    check_learned({"x.B": torch.ones(1), "table": torch.ones(2, 1, 3)}, None, {})

    def one_person_moved(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        if name == "table":
            tensor[0, 0, 0] += 1e-6
        return tensor

    replaced(cache, "group", one_person_moved)
    notes = stages(base, cache).notes["group"]
    assert 0 < notes["moved"] < 1
    assert 0 < notes["embeddings"]["moved"] < 0.1


def test_population_and_router_that_never_moved_are_noted(
    base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {
        n: stages(base, cache).notes[n]["moved"] for n in ("population", "group", "router")
    } == {
        "population": 1.0,
        "group": 1.0,
        "router": 1.0,
    }
    replaced(cache, "population", without_b)
    shutil.rmtree(next(cache.glob("router-*")))
    monkeypatch.setattr(
        stages_module, "train_lora_router", lambda *_, **__: PooledReport([1.0, 2.0], [1.0], 0)
    )
    notes = stages(base, cache).notes
    assert (notes["population"]["moved"], notes["router"]["moved"]) == (0.0, 0.0)
    assert (notes["group"]["moved"], notes["group"]["embeddings"]) == (1.0, {"moved": 1.0})


@pytest.mark.parametrize("phase", ["population", "group", "router"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_phase_that_is_not_finite_is_refused(
    base: Path, cache: Path, phase: str, value: float
) -> None:
    first = iter([value])
    replaced(cache, phase, lambda _, t: torch.full_like(t, next(first, 0.0)))
    with pytest.raises(TrainingError, match=rf"'{phase}' .*not finite in 1 of \d+ tensors"):
        stages(base, cache)


def test_held_back_users_train_nothing_and_the_choice_follows_the_seed() -> None:
    users = small_users()[0]
    encoder = Encoder(WordTokenizer(), max_prompt_tokens=64, max_answer_tokens=8)
    first = pool(users, load_task("synth_tag"), encoder, FAST, 0)
    again = pool(users, load_task("synth_tag"), encoder, FAST, 0)
    other = pool(users, load_task("synth_tag"), encoder, FAST, 1)
    assert first == again
    assert first.fingerprint() != other.fingerprint()
    assert len(first.trained) + len(first.held_back) == len(users)
    assert len(first.held_back) >= 1
    with pytest.raises(DataError, match="at least 3"):
        pool(users[:2], load_task("synth_tag"), fake_encoder(), FAST, 0)


def test_router_cohort_is_at_most_the_limit_and_pooled_users_only() -> None:
    item = samples(1, 0)
    users = [PooledUser(item, item)] * 50
    assert router_cohort(users[:5], 100, 0) == [0, 1, 2, 3, 4]
    chosen = router_cohort(users, 10, 0)
    assert len(set(chosen)) == 10
    assert max(chosen) < 50
    assert chosen != router_cohort(users, 10, 1)
    assert router_cohort([PooledUser(item, ()), PooledUser((), item), *users[:1]], 9, 0) == [2]


def test_only_users_with_queries_are_held_back() -> None:
    users = small_users()[0]
    mute = [dataclasses.replace(user, queries=()) for user in users]
    encoder = Encoder(WordTokenizer(), max_prompt_tokens=64, max_answer_tokens=8)
    task = load_task("synth_tag")
    data = pool([*mute[1:], users[0]], task, encoder, FAST, 0)
    assert len(data.held_back) == 1
    assert data.held_back[0].queries
    with pytest.raises(DataError, match="no pooled user has a query"):
        pool(mute, task, encoder, FAST, 0)


def test_few_users_publish_neither_mean_nor_prototypes() -> None:
    table = torch.randn(9, 2, 4)
    published = published_embeddings(table, FAST, 0)
    assert not published["mean_embedding"].any()
    assert published["mean_embedding_count"].item() == 0
    assert published["prototypes"].shape == (0, 2, 4)


def test_prototypes_are_centres_of_at_least_twenty_users() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[5.0, 0], [0, 5.0], [-5.0, -5.0]])
    sizes = [28, 24, 8]  # the third group is too small to publish
    table = torch.cat(
        [
            c + 0.1 * torch.randn(n, 2, generator=generator)
            for c, n in zip(centres, sizes, strict=True)
        ]
    )[:, None]
    published = published_embeddings(table, FAST, 0)
    counts = published["prototype_counts"].tolist()
    # The eight join their neighbours: left out, the mean less the centres would give them away.
    assert len(counts) == 2 and min(counts) >= 24
    assert sum(counts) == 60
    assert published["mean_embedding_count"].item() == 60
    assert torch.allclose(published["mean_embedding"], table.mean(0))
    # Of fewer than two such centres one would be the mean.
    few = published_embeddings(table[:39], FAST, 0)
    assert few["mean_embedding_count"].item() == 39 and len(few["prototypes"]) == 0


def test_a_cache_entry_of_another_key_is_refused(tmp_path: Path) -> None:
    cache = PhaseCache(tmp_path)
    phase = cache.phase("group", {"seed": 1})
    phase.store({"x": torch.ones(2)}, {"note": 1})
    other = cache.phase("group", {"seed": 2})
    assert not other.finished()
    phase.folder.rename(other.folder)
    with pytest.raises(CheckpointError, match="not the one asked for"):
        other.load()


# -- whose items train stage 2 ---------------------------------------------------------------------


def test_everybody_trains_stage_2_with_histories_and_nobody_stage_1(
    base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test users' queries are in no phase; 3a-3b take them beside the cohort that was drawn."""
    given: dict[str, list[PooledUser]] = {}

    def group(model: AdaptedModel, _encoder: object, users: list[PooledUser], *_: object, **__):
        given["group"] = users
        model.expert(0).b.data[0, 0, 0] = 1.0
        return first_embeddings(model, len(users), 0) + 1, PooledReport([1.0], [1.0], 0)

    def router(_m: object, _e: object, users: list[PooledUser], table: Tensor, *_: object, **__):
        given["router"] = users
        assert len(table) == len(users)
        return PooledReport([1.0], [1.0], 0)

    monkeypatch.setattr(stages_module, "train_group", group)
    monkeypatch.setattr(stages_module, "train_lora_router", router)
    monkeypatch.setattr(stages_module, "train_population", None)  # found in the cache
    test = small_users()[1][:3]
    release = stages(base, cache, personalized=test)
    assert release.notes["users_personalized"] == 3
    count = release.notes["users_trained"]
    assert len(given["group"]) == count + 3
    for users in (given["group"][count:], given["router"][-3:]):
        assert [len(user.history) for user in users] == [len(user.history) for user in test]
        assert not any(user.queries for user in users)
    assert all(user.queries for user in given["router"][:-3])
    # Without them it is the run of before, found whole in the cache.
    monkeypatch.setattr(stages_module, "train_group", None)
    monkeypatch.setattr(stages_module, "train_lora_router", None)
    assert "users_personalized" not in stages(base, cache).notes


def test_shuffled_identities_permute_items_and_nothing_else(base: Path, cache: Path) -> None:
    users = [PooledUser(samples(5 + u, 10 * u), samples(u % 3, 10 * u + 1)) for u in range(6)]
    dealt = with_shuffled_identities(users, 3)
    for kind in ("history", "queries"):
        before = [getattr(user, kind) for user in users]
        after = [getattr(user, kind) for user in dealt]
        assert [len(own) for own in after] == [len(own) for own in before]
        flat = [[item.tokens for own in found for item in own] for found in (before, after)]
        assert sorted(flat[0]) == sorted(flat[1])
        assert flat[0] != flat[1]
    assert with_shuffled_identities(users, 3) == dealt
    assert with_shuffled_identities(users, 4) != dealt
    # A run with them shares stage 1 and trains the rest anew.
    seen: list[str] = []
    stages(base, cache, shuffle_identities=True, progress=trained(seen))
    assert set(seen) == {"group", "router"}


def test_too_few_people_to_infer_from_are_refused_before_stage_1(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages_module, "train_population", None)
    many = dataclasses.replace(FAST, group=dataclasses.replace(FAST.group, prototype_min_users=500))
    with pytest.raises(TrainingError, match="takes at least 500"):
        stages(base, tmp_path, "calibrated", settings=many)


def test_of_stage_1_alone_nothing_else_is_trained_or_released(
    base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train_population", "train_group", "train_lora_router"):
        monkeypatch.setattr(stages_module, name, None)
    release = run_pooled_stages(
        small_users()[0],
        load_task("synth_tag"),
        str(base),
        STRUCTURE.without_groups(),
        FAST,
        seed=0,
        cache=cache,
    )
    assert release.shared.keys() == {
        *("mean_embedding", "mean_embedding_count", "prototypes", "prototype_counts")
    }
    again = release_in_memory(release_to_files(release))
    assert (again.structure.name, again.structure.population_only) == ("population-only", True)
    # Devices adapt: `stage3` is then a private LoRA without experts, trained as `oppu-mlp` is.
    users, arms = small_users()[1][:2], ("stage3", "oppu-mlp")
    found = adapt_users(again, users, arms=arms, bundle_id="ab" * 32, seed=0)
    for user in users:
        ours, theirs = (found[arm, user.user_id] for arm in arms)
        assert ours.embedding is not None
        assert (tuple(ours.embedding.shape), bool(ours.embedding.any())) == ((1, 1), False)
        mine, other = (one.tasks["synth_tag"].adapter for one in (ours, theirs))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
        assert ours.embedding_report["embedding_source"] == "none"
    states = {user.user_id: found["stage3", user.user_id] for user in users}
    assert predict(again, users, "stage2", states) == predict(again, users, "stage1", {})
    person = Personal.of(again, states[users[0].user_id], None)
    assert person.stages == ("1", "3")
    with pytest.raises(ConfigError, match="population only"):
        person.arm("2")
    with pytest.raises(ConfigError, match="population only"):
        person.routing([], stage="3")
