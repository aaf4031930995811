"""`proper-sim privacy linkage` and `inversion`, whole, over a small release that other tests share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from proper_model.errors import ConfigError
from proper_model.release.contents import Release
from proper_model.settings import load_profile
from simulations.cli import run_cli
from simulations.privacy.inversion import attacks as inverting
from simulations.privacy.linkage import attacks as linking
from simulations.privacy.linkage import people
from simulations.privacy.linkage.people import draw_parts, plant
from simulations.privacy.linkage.releases import Lab
from simulations.privacy.results.rates import read_rates
from simulations.synthetic import tiny_base
from tests.documents import document
from tests.releases import small_base, small_release

ARGUMENTS = ["--people", "6", "--seeds", "0"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people, one release for all conditions, a step or two of training."""

    def release(*_: object, **__: object) -> Release:
        found = small_release()
        user = dataclasses.replace(
            found.settings.user, epochs=1, embedding_epochs=1, learning_rates=(4e-3,)
        )
        return dataclasses.replace(found, settings=dataclasses.replace(found.settings, user=user))

    monkeypatch.setattr(people, "PARTS", {"pooled": 1, "more": 1, "public": 1})
    monkeypatch.setattr(Lab, "_release", release)
    monkeypatch.setattr(tiny_base, "make_tiny_base", lambda *_, **__: small_base())
    monkeypatch.setattr(linking, "QUESTIONS", 3)
    monkeypatch.setattr(inverting, "CANDIDATES", 20)


def planted(tmp_path: Path) -> people.Planted:
    how = {"two_tasks": False, "bases": tmp_path, "progress": lambda *_: None}
    return plant("demo", load_profile("demo"), attacked=6, **how)  # type: ignore[arg-type]


def test_parts_share_nobody_and_halves_share_no_item(tmp_path: Path) -> None:
    everybody = planted(tmp_path)
    parts = draw_parts(everybody, 6, 3)
    assert parts == draw_parts(everybody, 6, 3) != draw_parts(everybody, 6, 4)
    places = [*parts.pooled, *parts.more, *parts.public, *parts.attacked]
    assert len(places) == len(set(places)) == 15
    for own in (parts.pooled, parts.attacked):
        groups = [everybody.group[who] for who in own]
        assert all(groups.count(number) == len(own) // 3 for number in range(3))
    for who, (one, two) in zip(parts.attacked, parts.halves, strict=True):
        ids = [item.id for item in (*one, *two)]
        assert sorted(ids) == sorted(item.id for item in everybody.users[who].history)
        assert len(one) == len(two)
    assert [u.user_id for u in everybody.users] == [u.user_id for u in everybody.second]


@pytest.mark.parametrize(("data", "attacked"), [("here", 6), ("demo", 7), ("demo", 3)])
def test_people_without_a_true_group_are_refused(tmp_path: Path, data: str, attacked: int) -> None:
    with pytest.raises(ConfigError):
        plant(
            data,
            load_profile("demo"),
            attacked=attacked,
            two_tasks=False,
            bases=tmp_path,
            progress=lambda *_: None,
        )


def test_linkage_from_people_to_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["privacy", "linkage", "--out", str(tmp_path), *ARGUMENTS]
    assert run_cli([*words, "--ask", "group,other-seed", "--json"]) == 0
    told = document(capsys.readouterr().out, "privacy linkage", "proper-sim")
    assert all(Path(told[name]).is_file() for name in ("result", "table", "page"))
    assert told["lines"] and told["people"] == 6
    result = read_rates(tmp_path / "linkage.json")
    found = {
        (row.scope, row.thing, row.attack): row for row in result.attacks if row.control == "none"
    }
    assert {thing for _, thing, _ in found} >= {*linking.THINGS, "adapter-factors, seed kept"}
    # A kept seed begins A_u where it began before, and a short training leaves it near.
    kept = found["other-seed", "adapter-factors, seed kept", "cosine"]
    assert kept.pooled.value == 1 and kept.rank is not None and kept.rank.value == 1
    assert found["other-seed", "adapter-factors", "cosine"].pooled.value < 1
    untrained = [row for row in result.attacks if row.thing == "adapter, untrained"]
    assert [row.control for row in untrained] == ["negative"]
    assert (tmp_path / "linkage.html").is_file() and (tmp_path / "linkage.md").is_file()
    assert run_cli([*words, "--ask", "group"]) != 0, "another question is not mixed in"


def test_inversion_from_people_to_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["privacy", "inversion", "--out", str(tmp_path), *ARGUMENTS]
    assert run_cli([*words, "--batch", "1", "--noise", "100", "--steps", "2", "--json"]) == 0
    assert document(capsys.readouterr().out, "privacy inversion", "proper-sim")["lines"]
    result = read_rates(tmp_path / "inversion.json")
    rows = [row for row in result.attacks if row.control != "negative"]
    found = {(row.scope, row.thing, row.attack): row for row in rows}
    read = found["tokens", "embeddings; 1 text", "read off, no defence"]
    assert read.control == "positive" and read.pooled.value > 0.9
    for upload in ("router", "lora"):
        open_ = found["candidates", f"{upload}; 1 text", "nearest, no defence"]
        # An adapter that training did not keep has B = 0, and its router's gradient is zero.
        assert open_.pooled.value > (0.99 if upload == "lora" else 0.5) and open_.chance == 0.05
        drowned = found["candidates", f"{upload}; 1 text", "nearest, clipped, noise 100"]
        assert drowned.pooled.value < 1
        assert ("tokens", f"{upload}; 1 text", "gradient matching, no defence") in found
    assert ("answer", "lora-update; 1 text", "learned reading, no defence") in found


@pytest.mark.parametrize(
    "wrong",
    [
        ["linkage", "--things", "shoes"],
        ["linkage", "--ask", ""],
        ["inversion", "--batch", "0"],
        ["inversion", "--batch", "13"],
        ["inversion", "--noise", "nan"],
        ["inversion", "--uploads", "router", "--preset", "device"],
        ["inversion", "--steps", "-1"],
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, wrong: list[str]) -> None:
    words = ["privacy", wrong[0], "--out", str(tmp_path), *ARGUMENTS, *wrong[1:]]
    assert run_cli(words) == ConfigError.exit_code
    assert not list(tmp_path.glob("*.json"))
