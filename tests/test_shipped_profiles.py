"""The shipped profiles load, and hold the values the paper gives."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from proper_model.errors import ConfigError
from proper_model.settings import shipped_profiles
from proper_model.settings.profile import ATTENTION_TARGETS, FFN_TARGETS
from proper_model.settings.shipped_profiles import load_profile, profile_folder, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_carries_its_own_name(name: str) -> None:
    assert load_profile(name).name == name


def test_paper_profile_holds_the_values_of_the_paper() -> None:
    paper = load_profile("paper-a100")
    assert paper.population.targets == ATTENTION_TARGETS
    assert (paper.population.rank, paper.population.alpha) == (8, 16.0)
    assert (paper.population.learning_rate, paper.population.batch_size) == (3e-4, 2)
    assert not paper.population.use_history
    group = paper.group
    assert (group.learning_rate, group.batch_size, group.dropout) == (2e-4, 1, 0.05)
    assert paper.user.learning_rates == (2e-4,)
    assert (paper.user.batch_size, paper.user.dropout) == (1, 0.05)


def test_released_profile_holds_the_values_of_the_released_code() -> None:
    """docs/method.md 1.10: epochs, rates, batches, warm-up, and no weight for the constraint loss."""
    released = load_profile("released-a100")
    stages = (released.population, released.group, released.user, released.router)
    assert [stage.epochs for stage in stages] == [3, 2, 1, 1]
    assert [stage.batch_size for stage in stages] == [8, 1, 1, 1]
    assert (released.population.rank, released.population.alpha) == (8, 16.0)
    assert released.population.targets == ATTENTION_TARGETS
    assert released.population.learning_rate == 3e-4
    assert released.group.learning_rate == released.router.learning_rate == 2e-4
    assert released.user.learning_rates == (2e-4,)
    assert (released.warmup_ratio, released.dtype) == (0.03, "bfloat16")
    assert released.group.constraint_weight == 0


def test_tiny_teaches_the_format_in_stage_one() -> None:
    tiny = load_profile("tiny")
    assert set(tiny.population.targets) == set(ATTENTION_TARGETS + FFN_TARGETS)
    assert tiny.population.use_history


@pytest.mark.parametrize("name", sorted({*profile_names()} - {"paper-a100"}))
def test_deviations_from_the_paper_are_marked(name: str) -> None:
    """DEVIATION stands in the line of such a value, or in the comment above it.

    What a profile takes over from the one that it extends is marked there.
    """
    paper, other = load_profile("paper-a100"), load_profile(name)
    text = (profile_folder() / f"{name}.toml").read_text()
    own, lines = tomllib.loads(text), text.splitlines()
    extended = load_profile(own["extends"]) if "extends" in own else None
    for section in ("population", "group", "user"):
        for key in ("targets", "use_history", "batch_size"):
            profiles = (paper, other, extended or paper)
            values = [getattr(getattr(p, section), key, None) for p in profiles]
            if values[0] == values[1]:
                continue
            if extended is not None and key not in own.get(section, {}):
                assert values[1] == values[2]
                continue
            start = lines.index(f"[{section}]")
            place = next(n for n in range(start, len(lines)) if lines[n].startswith(f"{key} ="))
            first = place
            while lines[first - 1].startswith("#"):
                first -= 1
            assert "DEVIATION" in "".join(lines[first : place + 1]), (section, key)


def test_fitted_embeddings_have_a_rate_that_moves_them() -> None:
    for name in ("paper-a100", "small-gpu", "tiny"):
        assert 3e-2 <= load_profile(name).user.embedding_learning_rate <= 5e-2


def test_a_file_of_the_user_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[user]\nepochs = 7\n')
    for given in (path, str(path)):
        assert load_profile(given).user.epochs == 7


def test_a_file_never_replaces_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").write_text('name = "planted"\n')
    monkeypatch.chdir(tmp_path)
    assert load_profile("tiny").name == "tiny"


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown profile 'huge'") as caught:
        load_profile("huge")
    assert all(name in str(caught.value.hint) for name in profile_names())


@pytest.mark.parametrize(
    "content",
    [
        *(b"name = ", b"\xff\xfe", b"name = 'x'\nspeed = 1\n", b"name = " + b"9" * 5000),
        b"name = 'x'\nweight_decay = 1" + b"0" * 400,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_malformed_files_are_refused_with_their_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="broken.toml"):
        load_profile(path)


def test_oversized_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_text("#" * (shipped_profiles.MAX_PROFILE_BYTES + 1))
    with pytest.raises(ConfigError, match="at most"):
        load_profile(path)
    with pytest.raises(ConfigError, match="cannot read profile"):
        load_profile(tmp_path / "none.toml")


def test_a_lost_installation_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shipped_profiles, "__file__", str(tmp_path / "proper_model" / "profiles.py")
    )
    with pytest.raises(ConfigError) as caught:
        profile_folder()
    assert "path of a profile file" in str(caught.value.hint)
