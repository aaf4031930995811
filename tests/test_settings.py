"""Settings: what is refused, and that reading and writing them are inverses."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from proper_model.errors import ConfigError
from proper_model.settings import shipped_profiles
from proper_model.settings.presets import (
    PRESETS,
    RouterText,
    Structure,
    UserRouting,
    preset,
)
from proper_model.settings.profile import (
    PopulationSettings,
    StageSettings,
)
from proper_model.settings.settings_io import from_mapping, to_mapping
from proper_model.settings.shipped_profiles import load_profile, profile_names
from proper_model.tasks.schema import HistorySpec


def test_presets_differ_only_where_the_specification_says() -> None:
    paper, default, device = (to_mapping(preset(n)) for n in ("paper", "default", "device"))
    changed = {key for key in default if default[key] != paper[key]}
    assert changed == {"name", "constraint", "user_routing"}
    changed = {key for key in default if default[key] != device[key]}
    assert changed == {
        *("name", "router_text", "router_sharing", "embedding_tables", "user_routing")
    }


def test_presets_that_fold_are_those_without_a_lora_router() -> None:
    assert {name: p.foldable for name, p in PRESETS.items()} == {
        "paper": False,
        "default": False,
        "device": True,
        "calibrated": True,
        "released": False,
    }
    assert all(p.foldable != p.has_lora_router for p in PRESETS.values())


def test_released_is_the_table_of_the_released_code() -> None:
    """docs/method.md 1.10: each row that is about the structure."""
    paper, released = to_mapping(preset("paper")), to_mapping(preset("released"))
    assert {key: value for key, value in released.items() if value != paper[key]} == {
        "name": "released",
        "router_merge": "double",
        "expert_factor": 0.2,
        "embedding_tables": "per_linear",
        "embedding_dim": 0,
        "constraint": "none",
    }


def test_lora_scale_is_two_in_every_stage() -> None:
    assert preset("paper").scale == 2.0
    assert PopulationSettings().alpha / PopulationSettings().rank == 2.0


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        preset("fast")
    assert caught.value.hint == "presets are: calibrated, default, device, paper, released"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"experts": 0}, "experts"),
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"router_sharing": "tied"}, "embedding_tables"),
        ({"router_sharing": "tied", "embedding_tables": "one"}, "router_text"),
        ({"router_text": "none", "router_merge": "average"}, "average"),
        ({"router_merge": "average"}, "summed"),
        ({"router_merge": "double"}, "summed"),
        ({"router_text": "none", "router_merge": "double", "user_routing": "user_aware"}, "double"),
        ({"expert_factor": 0.0}, "expert_factor"),
        ({"user_routing": "user_aware", "private_lora_router": True}, "private_lora_router"),
        ({"end_to_end": True}, "end_to_end"),
    ],
)
def test_contradictory_structures_are_refused(changes: dict, word: str) -> None:
    mapping = to_mapping(preset("default")) | changes
    with pytest.raises(ConfigError, match=word):
        from_mapping(Structure, mapping, where="structure")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('speed = "fast"', r"p: unknown setting 'speed'"),
        ("[group]\nlambda = 1", r"p.group: unknown setting 'lambda'"),
        ('[user]\nepochs = "two"', r"p.user.epochs: expected int, got str"),
        ("[user]\nepochs = true", r"p.user.epochs: expected int, got bool"),
        ("[user]\nepochs = 2.5", r"p.user.epochs: expected int, got float"),
        ("[user]\nlearning_rates = 0.1", r"p.user.learning_rates: expected a list, got float"),
        ('[user]\nlearning_rates = "0.1"', r"p.user.learning_rates: expected a list, got str"),
        ('[user]\nlearning_rates = [1, "x"]', r"p.user.learning_rates\[1\]: expected float"),
        ("[user]\nlearning_rates = []", r"user.learning_rates must not be empty"),
        ("user = 3", r"p.user: expected a table, got int"),
        ('[population]\ntargets = ["q_proj", "lm_head"]', r"unknown \['lm_head'\]"),
        ("[population]\ntargets = []", r"population.targets must not be empty"),
        ("[group]\nprototype_min_users = 9", r"would publish personal data"),
        ("[group]\nconstraint_weight = -0.1", r"group.constraint_weight"),
        ("[router]\ndropout = 1.0", r"router.dropout"),
        ('dtype = "float8"', r"dtype must be"),
        ("held_back_fraction = 0.0", r"held_back_fraction"),
        (
            "[group]\nlearning_rate = inf",
            r"p.group.learning_rate: expected a finite number, got inf",
        ),
        ("[user]\nlearning_rates = [nan]", r"p.user.learning_rates\[0\]: expected a finite number"),
        ("weight_decay = inf", r"p.weight_decay: expected a finite number"),
        ("[router]\nlearning_rate = 30", r"router.learning_rate must be positive and at most 1"),
        ("[user]\nlearning_rates = [2e-3, 0]", r"user.learning_rates must be positive"),
        ("[group]\nembedding_learning_rate = 4.0", r"group.embedding_learning_rate must be"),
        ("[population]\nrank = 0", r"population.rank must be at least 1"),
        ("[population]\nalpha = 0", r"population.alpha must be positive"),
        ("max_prompt_tokens = 999999999", r"max_prompt_tokens must be 8 to 1048576, got 999999999"),
        ("max_answer_tokens = 999999999", r"max_answer_tokens must be 1 to"),
        ("tokens_per_step = 999999999", r"tokens_per_step must be 64 to"),
        ('name = ""', r"name must be 1 to 64 letters"),
        ('name = "../../etc/x"', r"name must be"),
        ('name = "<b>bold</b>"', r"name must be"),
        ('name = ".."', r"name must be"),
    ],
)
def test_bad_settings_are_refused_with_their_place(toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(StageSettings, {"name": "p"} | tomllib.loads(toml), where="p")


def test_a_missing_name_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(StageSettings, {}, where="profile")
    assert caught.value.message == "profile: name is missing"
    with pytest.raises(ConfigError, match="s: prompt, answer are missing"):
        from_mapping(HistorySpec, {}, where="s")


def test_unknown_enum_values_name_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Structure, {"name": "x", "constraint": "hard"}, where="s")
    assert caught.value.message == "s.constraint: unknown value 'hard'"
    assert caught.value.hint == "known: aggregate, pairs, none"


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StageSettings(name="x").dtype = "float32"  # type: ignore[misc]


def test_integers_are_taken_where_a_number_is_asked_for() -> None:
    settings = from_mapping(StageSettings, {"name": "x", "weight_decay": 0}, where="x")
    assert settings.weight_decay == 0.0
    assert isinstance(settings.weight_decay, float)


def test_a_profile_that_extends_another_is_it_but_for_what_it_says(tmp_path: Path) -> None:
    tiny, mine = load_profile("tiny"), tmp_path / "mine.toml"
    mine.write_text(
        'extends = "tiny"\nname = "mine"\nmax_prompt_tokens = 64\n'
        "[group]\nepochs = 5\n[user]\nlearning_rates = [1e-4]\n"
    )
    found = load_profile(mine)
    assert (found.name, found.max_prompt_tokens) == ("mine", 64)
    assert found.group == dataclasses.replace(tiny.group, epochs=5)
    assert found.user == dataclasses.replace(tiny.user, learning_rates=(1e-4,))
    same = dataclasses.replace(
        found,
        name="tiny",
        max_prompt_tokens=tiny.max_prompt_tokens,
        group=tiny.group,
        user=tiny.user,
    )
    assert same == tiny


def test_what_cannot_be_extended_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.toml"
    for value in ('"mine"', "3", '"./mine.toml"'):
        mine.write_text(f"extends = {value}\n")
        with pytest.raises(ConfigError, match="extends must name a shipped profile"):
            load_profile(mine)
    for name in ("", 'name = "tiny"\n'):
        mine.write_text(f'extends = "tiny"\n{name}max_prompt_tokens = 64\n')
        with pytest.raises(ConfigError, match=r"mine.toml: needs a name of its own") as refused:
            load_profile(mine)
        assert 'name = "tiny-mine"' in str(refused.value.hint)
    mine.write_text('extends = "tiny"\nname = "mine"\n[group]\nspeed = 3\n')
    with pytest.raises(ConfigError, match=r"mine.toml.group: unknown setting 'speed'"):
        load_profile(mine)
    mine.write_text('extends = "tiny"\nname = "mine"\n[calibration]\nlengths = [3, 1]\n')
    with pytest.raises(ConfigError, match=r"^mine.toml: calibration.lengths must rise"):
        load_profile(mine)
    monkeypatch.setattr(shipped_profiles, "profile_folder", lambda: tmp_path)
    mine.write_text('extends = "other"\nname = "mine"\n')
    (tmp_path / "other.toml").write_text('extends = "mine"\nname = "other"\n')
    with pytest.raises(ConfigError, match="extends itself by way of"):
        load_profile("mine")


@pytest.mark.parametrize(
    "value",
    [
        StageSettings(name="defaults"),
        *map(load_profile, profile_names()),
        *PRESETS.values(),
        *(
            dataclasses.replace(preset("default"), router_text=text, user_routing=routing)
            for text in RouterText
            for routing in UserRouting
        ),
    ],
)
def test_settings_and_structures_survive_json(value: StageSettings | Structure) -> None:
    mapping = json.loads(json.dumps(to_mapping(value)))
    assert from_mapping(type(value), mapping, where="plan") == value
