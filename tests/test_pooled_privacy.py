"""Privacy of a whole run: what is refused, what its release says, and what the accountant is asked."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from coordinator.phase_keys import PhaseInputs
from coordinator.pooled_privacy import privacy_notes, spend, spent_on
from coordinator.pooled_stages import run_pooled_stages
from proper_model.accounting import Spent, accountant
from proper_model.accounting.accountant import interpreter
from proper_model.base.population_lora import attach_population, population_state
from proper_model.engine.factor_cores import FactorCores
from proper_model.errors import ConfigError, TrainingError
from proper_model.kernels.dropout import mix_seed
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release, release_to_files
from proper_model.release.privacy_note import privacy_sentence
from proper_model.release.recipe import parse_recipe
from proper_model.settings.presets import PRESETS, preset
from proper_model.settings.privacy import PrivacySettings, check_private_structure
from proper_model.settings.profile import StageSettings
from proper_model.settings.settings_io import from_mapping
from proper_model.settings.shipped_profiles import load_profile
from proper_model.stages.episodic_group import check_people
from proper_model.stages.group import experts_b
from proper_model.stages.pooled_users import PooledUser, pool
from proper_model.tasks.task import load_task
from proper_model.text.encoding import Encoder
from tests.bundle_samples import sample_recipe
from tests.releases import SMALL, release_in_memory, small_base, small_users
from tests.test_encoding import WordTokenizer

GIVEN = {
    "delta": 1e-3,
    "sampling_rate": 0.2,
    "clip_norm": 0.5,
    "population_steps": 2,
    "group_steps": 3,
}
NOISY = PrivacySettings(**GIVEN, noise_multiplier=1.0)
SEEDED = dataclasses.replace(NOISY, reproducible=True)
TARGET = PrivacySettings(**GIVEN, epsilon=8.0)


def private(privacy: PrivacySettings | None) -> StageSettings:
    group = dataclasses.replace(SMALL.group, prototypes=0, max_items_per_user=8)
    return dataclasses.replace(SMALL, group=group, privacy=privacy)


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "either noise_multiplier or epsilon"),
        ({"noise_multiplier": 1.0, "epsilon": 1.0}, "either noise_multiplier or epsilon"),
        ({"noise_multiplier": 0.0}, "protects nobody"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 8.0, "delta": 1.0}, "delta"),
        ({"epsilon": 8.0, "sampling_rate": 0.0}, "sampling_rate"),
        ({"epsilon": 8.0, "sampling_rate": 1.5}, "sampling_rate"),
        ({"epsilon": 8.0, "clip_norm": 0.0}, "clip_norm"),
        ({"epsilon": 8.0, "group_steps": 0}, "group_steps"),
        ({"epsilon": 8.0, "population_learning_rate": 0.0}, "population_learning_rate"),
        ({"epsilon": 8.0, "group_learning_rate": 1.5}, "group_learning_rate"),
        ({"epsilon": 8.0, "items_per_user": 0}, "items_per_user"),
        ({"epsilon": 8.0, "core": True, "freeze_a": False}, "core"),
        ({"epsilon": 8.0, "rounds": 3}, "unknown setting"),
    ],
)
def test_settings_of_privacy_that_make_no_sense_are_refused(changes: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_mapping(PrivacySettings, GIVEN | changes, where="privacy")


def test_a_profile_without_what_is_needed_or_with_what_no_noise_covers_is_refused() -> None:
    def read(**tables: object) -> StageSettings:
        return from_mapping(StageSettings, {"name": "x", **tables}, where="x.toml")

    given, none = {**GIVEN, "epsilon": 8}, {"prototypes": 0}
    assert read(privacy=given, group=none).privacy == TARGET
    assert read().privacy is None
    with pytest.raises(ConfigError, match=r"clip_norm.*missing"):
        read(privacy={name: v for name, v in given.items() if name != "clip_norm"}, group=none)
    with pytest.raises(ConfigError, match=r"group\.prototypes is 5"):
        read(privacy=given)
    with pytest.raises(ConfigError, match=r"calibration\.people is 12"):
        read(privacy=given, group=none, calibration={"people": 12})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_of_which_something_escapes_the_noise_are_refused(name: str) -> None:
    check_private_structure(preset(name).without_groups())
    if name == "calibrated":
        check_private_structure(preset(name))
        return
    with pytest.raises(ConfigError, match=f"'{name}'.*no noise") as error:
        check_private_structure(preset(name))
    assert "calibrated" in str(error.value.hint)


def test_shuffled_identities_and_a_delta_that_allows_a_leak_are_refused() -> None:
    with pytest.raises(ConfigError, match="whole users"):
        spent_on(private(SEEDED), preset("calibrated"), shuffled=True)
    with pytest.raises(ConfigError, match="of pooled users"):
        spent_on(private(SEEDED), preset("calibrated"), shuffled=False, more=small_users()[1])
    SEEDED.check_users(999)
    with pytest.raises(ConfigError, match="1000 pooled users"):
        SEEDED.check_users(1000)


def test_nobody_is_held_back_or_calibrates_under_privacy() -> None:
    users = small_users()[0][:12]
    encoder = Encoder(WordTokenizer(), max_prompt_tokens=64, max_answer_tokens=8)
    data = pool(users, load_task("synth_tag"), encoder, private(SEEDED), 0)
    assert len(data.trained) == 12
    assert data.held_back == data.calibrating == ()


def test_too_few_people_are_told_by_their_number_not_by_who_has_items() -> None:
    people = [PooledUser((), ())] * SMALL.group.prototype_min_users
    check_people(people, private(SEEDED))
    with pytest.raises(TrainingError):
        check_people(people[1:], private(SEEDED))
    with pytest.raises(TrainingError):
        check_people(people, private(None))


def test_the_profile_that_the_method_shows_is_one(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs/method.md").read_text()
    start = '    extends = "tiny"\n    name = "tiny-private"\n'
    lines = (start + text.partition(start)[2].partition("\n\n")[0]).splitlines()
    path = tmp_path / "private.toml"
    path.write_text("\n".join(line.strip() for line in lines))
    privacy = load_profile(path).privacy
    assert privacy is not None
    assert (privacy.epsilon, privacy.freeze_a) == (8.0, True)


# -- the accountant ----------------------------------------------------------------------------


def stand_in(folder: Path, answer: str, code: int = 0) -> Path:
    """An interpreter that answers so, and keeps what it was asked."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(folder / 'asked')!r}, 'a').write(sys.stdin.read() + chr(10))\n"
        f"print({answer!r})\nsys.exit({code})\n"
    )
    path.chmod(0o755)
    return path


def test_the_accountant_is_asked_in_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"noise_multiplier": 0.8, "epsilon": 7.9, "accountant": "stand-in"}
    monkeypatch.setenv(accountant.VARIABLE, str(stand_in(tmp_path, json.dumps(answer))))
    assert spend(TARGET, 5) == Spent(0.8, 7.9, "stand-in")
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked == {
        "sampling_rate": 0.2, "steps": 5, "delta": 1e-3, "noise_multiplier": None, "epsilon": 8.0
    }  # fmt: skip
    # Both stages' steps count, and what the noise is to be is found once and recorded.
    settings, spent = spent_on(private(TARGET), preset("calibrated"), shuffled=False)
    assert settings.privacy == NOISY.with_noise(0.8)
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    assert spent is not None
    assert privacy_notes(settings, preset("calibrated"), spent, 60)["privacy"]["epsilon"] == 7.9
    assert spent_on(private(None), preset("default"), shuffled=True)[1] is None


@pytest.mark.parametrize(
    ("answer", "code"), [("no JSON", 0), ("{}", 0), ('{"epsilon": "x"}', 0), ("{}", 3)]
)
def test_an_accountant_that_fails_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setenv(accountant.VARIABLE, str(stand_in(tmp_path, answer, code)))
    with pytest.raises(ConfigError, match="accountant") as error:
        spend(NOISY, 5)
    assert "make accountant" in str(error.value.hint)


def test_without_an_accountant_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(accountant.VARIABLE, raising=False)
    monkeypatch.setattr(accountant.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(accountant.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="not installed") as error:
        spent_on(private(TARGET), preset("calibrated"), shuffled=False)
    assert "make accountant" in str(error.value.hint)
    monkeypatch.setenv(accountant.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no file"):
        interpreter()


def test_a_seeded_run_has_an_infinite_epsilon_whatever_the_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spend(SEEDED, 5).epsilon == math.inf
    answer = {"noise_multiplier": 0.8, "epsilon": 7.9, "accountant": "stand-in"}
    monkeypatch.setenv(accountant.VARIABLE, str(stand_in(tmp_path, json.dumps(answer))))
    assert spend(dataclasses.replace(TARGET, reproducible=True), 5).epsilon == math.inf


def test_epsilons_are_the_published_ones() -> None:
    """1,000 users, q = 0.1, 100 steps, z = 1; and one Gaussian, whose epsilon has a closed form."""
    try:
        interpreter()
    except ConfigError as error:
        pytest.skip(f"{error.message}; {error.hint}")
    published = PrivacySettings(
        delta=1000**-1.1,
        sampling_rate=0.1,
        clip_norm=1.0,
        population_steps=50,
        group_steps=50,
        noise_multiplier=1.0,
    )
    spent = spend(published, published.steps(preset("calibrated")))
    assert spent.epsilon == pytest.approx(5.2, abs=0.05)
    assert "PLD" in spent.accountant
    once = dataclasses.replace(published, sampling_rate=1.0, delta=1e-5)

    def excess(epsilon: float) -> float:  # Balle and Wang, ICML 2018, theorem 8
        return norm.cdf(0.5 - epsilon) - math.exp(epsilon) * norm.cdf(-0.5 - epsilon) - 1e-5

    assert spend(once, 1).epsilon == pytest.approx(brentq(excess, 1, 9), rel=1e-3)


# -- a release ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return run_pooled_stages(
        small_users()[0],
        load_task("synth_tag"),
        str(small_base()),
        preset("calibrated"),
        private(SEEDED),
        seed=0,
        cache=tmp_path_factory.mktemp("cache"),
    )


def test_a_release_says_what_it_protects_and_holds_nothing_that_noise_does_not_cover(
    release: Release,
) -> None:
    said = release.notes["privacy"]
    assert (said["unit"], said["epsilon"], said["delta"]) == ("user", "infinite", 1e-3)
    assert said["steps"] == {"population": 2, "group": 3}
    assert said["users"] == len(small_users()[0]) == release.notes["users_trained"]
    assert len(said["covers"]) == 2
    for stage in ("population", "group"):  # losses of people are of people
        notes = release.notes[stage]
        assert notes["held_back"] == notes["held_back_se"] == notes["training"] == []
        assert notes["moved"] == 1
    # Directions, centre and prior are nobody's; there is no prototype, and the mean is zero.
    assert not release.shared["inferred.center"].any()
    assert int(release.shared["inferred.center_count"]) == 0
    assert not release.shared["mean_embedding"].any()
    assert len(release.shared["prototypes"]) == 0
    again = release_in_memory(release_to_files(release))
    assert again.notes["privacy"] == said
    assert again.settings.privacy == SEEDED
    assert "protects nobody" in str(privacy_sentence(again.notes))


def test_factors_a_stay_where_they_were_drawn(release: Release) -> None:
    generator = torch.Generator().manual_seed(mix_seed(0, 1))
    fresh = AdaptedModel(release.base, release.structure, generator=generator)
    for number, site in enumerate(fresh.sites):
        expert = fresh.expert(number)
        assert torch.equal(release.shared[f"experts.{site.path}.A"], expert.a)
        assert not torch.equal(release.shared[f"experts.{site.path}.B"], expert.b)
    peft = attach_population(release.base, release.settings.population, seed=mix_seed(0, 0))
    drawn = population_state(peft)
    peft.unload()
    kept = {name for name in drawn if torch.equal(drawn[name], release.population[name])}
    assert kept == {name for name in drawn if ".lora_A." in name}


def test_rates_of_noisy_steps_stand_in_for_the_stages_own(tmp_path: Path, release: Release) -> None:
    rates = {"population_learning_rate": 3e-2, "group_learning_rate": 2e-2}
    noisy = private(dataclasses.replace(SEEDED, **rates))
    usual = private(SEEDED)
    same = dataclasses.replace(
        usual,
        population=dataclasses.replace(usual.population, learning_rate=3e-2),
        group=dataclasses.replace(usual.group, learning_rate=2e-2),
    )
    tensors = []
    for settings in (noisy, same):
        found = run_pooled_stages(
            small_users()[0],
            load_task("synth_tag"),
            str(small_base()),
            preset("calibrated"),
            settings,
            seed=0,
            cache=tmp_path / str(len(tensors)),
        )
        tensors.append({**found.population, **found.shared})
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    moved = [name for name in release.population if ".lora_B." in name]
    assert all(not torch.equal(tensors[0][name], release.population[name]) for name in moved)


def test_of_a_release_with_cores_every_b_lies_in_its_fixed_factor(tmp_path: Path) -> None:
    """Whatever was learned of people is r x r numbers a factor; the rest follows from the seed."""
    found = run_pooled_stages(
        small_users()[0],
        load_task("synth_tag"),
        str(small_base()),
        preset("calibrated"),
        private(dataclasses.replace(SEEDED, core=True)),
        seed=0,
        cache=tmp_path,
    )
    model = AdaptedModel(found.base, found.structure, generator=torch.Generator().manual_seed(0))
    experts = experts_b(model)
    names = [f"experts.{site.path}.B" for site in model.sites]
    peft = attach_population(found.base, found.settings.population, seed=0)
    drawn = {n: t for n, t in population_state(peft).items() if ".lora_B." in n}
    peft.unload()
    learned = [(b, found.shared[name]) for b, name in zip(experts, names, strict=True)]
    for fixed, seed, said in (
        ([b.detach() for b in experts], mix_seed(0, 7), [b for _, b in learned]),
        (list(drawn.values()), mix_seed(0, 4), [found.population[name] for name in drawn]),
    ):
        for factor, b in zip(FactorCores(fixed, seed=seed).fixed, said, strict=True):
            assert bool(b.any())
            scale = factor.shape[-1] / factor.shape[-2]
            torch.testing.assert_close(scale * factor @ (factor.mT @ b), b, rtol=1e-4, atol=1e-6)


def test_without_privacy_recipes_and_keys_are_those_of_before() -> None:
    written = json.loads(parse_recipe(sample_recipe()).to_bytes())
    assert "privacy" not in written["settings"]

    def key(settings: StageSettings, stage: str) -> dict:
        inputs = PhaseInputs("b", "d", preset("calibrated"), settings, 0, "cpu", 1)
        return getattr(inputs, f"{stage}_key")()

    for stage in ("population", "group", "router"):
        plain = key(private(None), stage)
        assert "privacy" not in plain
        assert "privacy" not in plain["settings"]
        noisy = key(private(NOISY), stage)
        assert noisy.pop("privacy") == key(private(SEEDED), stage)["privacy"] | {
            "reproducible": False
        }
        assert noisy == plain
    other = dataclasses.replace(NOISY, group_steps=9)
    assert key(private(other), "population") == key(private(NOISY), "population")
    assert key(private(other), "group") != key(private(NOISY), "group")
    for name, stage in (("population", "population"), ("group", "group")):
        other = dataclasses.replace(NOISY, **{f"{name}_learning_rate": 0.1})
        assert key(private(other), stage) != key(private(NOISY), stage)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"epsilon": 7.98, "delta": 1e-4}, "epsilon 7.98, delta 0.0001"),
        ({"epsilon": "infinite", "delta": 1e-4}, "protects nobody"),
        ({"epsilon": True, "delta": 1e-4}, None),
        ({"epsilon": -1, "delta": 1e-4}, None),
        ({"epsilon": 1}, None),
        ([], None),
        (None, None),
    ],
)
def test_what_a_release_claims_is_said_in_a_sentence_or_not_at_all(said, told) -> None:
    sentence = privacy_sentence({"privacy": said})
    assert (sentence is None) == (told is None)
    assert told is None or told in str(sentence)
