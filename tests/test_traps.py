"""Checks for traps: sizes by hand, what training leaves passes, and each trap at two strengths."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from bundle_samples import KEY, NOW, ROOT, sample_files, sample_info

from client.releases import loading
from client.releases.install import install
from coordinator.publish import publish
from proper_model import checks
from proper_model.base.sites import find_sites
from proper_model.bundle.signed_bundle import build_bundle
from proper_model.checks.traps import (
    MOST_REACH,
    check_training,
    check_weights,
    expert_size,
    long_rows,
    reach_of,
    start_size,
)
from proper_model.errors import BundleFormatError
from proper_model.model import base_pass, group_pass
from proper_model.model.user_lora import init_factor_a
from proper_model.release.contents import Release
from proper_model.release.recipe import Recipe
from proper_model.settings import Calibrated, Calibration, load_profile, preset
from proper_model.settings.presets import PRESETS
from proper_model.settings.shipped_profiles import profile_names
from simulations.privacy.backdoor.traps import MADE, TRAPS, trap
from simulations.privacy.backdoor.verdicts import trap_seen, verdict_of
from tests.releases import small_release, small_users


def test_sizes_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, 5, generator=draw)
    b = torch.randn(3, 4, 2, generator=draw)
    weight = torch.randn(4, 5, generator=draw)
    dense = max(float((b[n] @ a[n]).norm()) for n in range(3)) / float(weight.norm())
    assert expert_size(a, b, weight) == pytest.approx(dense, rel=1e-5)
    assert expert_size(a, 0 * b, weight) == 0
    drawn = init_factor_a((8, 300), draw)
    assert start_size(drawn) == pytest.approx(1, abs=0.1)
    assert start_size(-7 * drawn) == pytest.approx(7, rel=0.1)
    rows = torch.diag(
        torch.tensor([*[3.0] * 97, 12.0, 12.0, 24.0, 30.0])
    )  # the hundredth longest: 24
    assert long_rows("layers.0.mlp.up_proj", rows) == (10, 8)
    assert long_rows("layers.0.mlp.down_proj", rows) == (1, 1)


def test_a_reach_is_of_the_longest_training_that_a_device_may_do() -> None:
    structure, settings = preset("default"), load_profile("demo")
    rate, epochs = max(settings.user.learning_rates), settings.user.epochs
    assert reach_of(structure, settings, None) == pytest.approx(2 * rate * epochs)
    row = Calibrated(3, 0.5, 7, 0.0, 1.0, 1.0, 1.0)
    for calibration in (Calibration(stage3=(row,)), Calibration(oppu_mlp=(row,))):
        assert reach_of(structure, settings, calibration) == pytest.approx(2 * 0.5 * 7)


@pytest.mark.parametrize("profile", profile_names())
def test_what_we_ship_is_no_trap(profile: str) -> None:
    settings = load_profile(profile)
    for structure in PRESETS.values():
        check_training(Recipe(structure, settings, "short", 0, None, {}))
        assert reach_of(structure, settings, None) < MOST_REACH / 2


@pytest.mark.parametrize("field", ["alpha", "epochs", "rate"])
def test_a_recipe_that_is_a_trap_is_neither_signed_nor_installed(
    tmp_path: Path, field: str
) -> None:
    recipe = json.loads(sample_files()["recipe.json"])
    if field == "alpha":
        recipe["structure"]["alpha"] = 17.0 * recipe["structure"]["rank"]
    elif field == "epochs":
        recipe["settings"]["user"] = {"epochs": 9_000}
    else:
        recipe["settings"]["user"] = {"learning_rates": [0.9]}
    files = {**sample_files(), "recipe.json": json.dumps(recipe).encode()}
    with pytest.raises(BundleFormatError, match="alpha"):
        publish(files, tmp_path / "release", [KEY], created=NOW, valid_for_days=3)
    signed = build_bundle(files, sample_info(1), [KEY])
    with pytest.raises(BundleFormatError, match="expected at most") as refused:
        install(tmp_path / "host", signed.all_files(), ROOT, now=NOW)
    assert "do not adapt" in (refused.value.hint or "")


def seen(release: Release) -> str:
    recipe = Recipe(
        *(release.structure, release.settings, "short", 0, None, {}), release.calibration
    )
    return trap_seen(release, recipe)


def test_every_bold_trap_is_seen_and_no_check_of_files_sees_one() -> None:
    release = small_release()
    assert seen(release) == seen(trap(release, "fixed")) == ""
    for kind in MADE:
        assert seen(trap(release, f"{kind}-bounded")) == ""
        assert "at most" in seen(trap(release, f"{kind}-bold"))
    assert len(TRAPS) == 1 + 2 * len(MADE)
    for name in ("start-bold", "outliers-bold"):
        found = verdict_of(name, trap(release, name))
        assert found.files == "" and "at most" in found.traps


def test_a_base_that_is_referred_to_is_judged_by_its_hashes_alone() -> None:
    made = trap(small_release(), "outliers-bold")
    check_weights(made, embedded=False)
    with pytest.raises(BundleFormatError, match="a row of"):
        check_weights(made, embedded=True)


@pytest.mark.parametrize(
    ("rows", "times", "refused"), [(1, 15, ""), (1, 17, "a row"), (30, 5, "one")]
)
def test_a_single_long_row_is_usual_and_many_are_not(rows: int, times: float, refused: str) -> None:
    release = small_release()
    (site, *_) = [s for s in find_sites(release.base) if s.path.endswith("up_proj")]
    weight = torch.ones(1000, site.d_in)
    weight[:rows] *= times
    base = copy.deepcopy(release.base)
    base.get_submodule(site.path).weight = torch.nn.Parameter(weight, requires_grad=False)
    made = dataclasses.replace(release, base=base)
    if not refused:
        check_weights(made, embedded=True)
        return
    with pytest.raises(BundleFormatError, match=f"{refused} .*of {site.path} is"):
        check_weights(made, embedded=True)


def test_traps_do_what_they_say_and_leave_the_honest_release_alone() -> None:
    release = small_release()
    before = {name: tensor.clone() for name, tensor in release.shared.items()}
    weights = {name: p.clone() for name, p in release.base.named_parameters()}
    encoder, mean = release.encoder(), release.mean_embedding[None]
    example = [encoder.encode(release.task.query_example(small_users()[1][0].queries[0]))]
    batch = encoder.batch(example, [0])

    def loss(made: Release, group: bool) -> float:
        model = made.model()
        now = group_pass(batch.slots, mean) if group else base_pass(batch.slots)
        return float(model.answer_loss(batch, now))

    # A larger alpha goes unnoticed in stage 2; larger experts do not, and a base is another one.
    assert loss(trap(release, "scale-bold"), True) == pytest.approx(loss(release, True), rel=1e-3)
    assert loss(trap(release, "experts-bold"), True) != pytest.approx(loss(release, True), rel=0.1)
    assert loss(trap(release, "experts-bold"), False) == loss(release, False)
    assert loss(trap(release, "outliers-bold"), False) != loss(release, False)
    start = trap(release, "start-bold").start("stage3", release.model().sites)
    assert start is not None and start_size(start[0]) == pytest.approx(64, rel=0.2)
    assert not start[-1].any()  # B of the last linear
    for name, tensor in release.shared.items():
        assert torch.equal(tensor, before[name])
    for name, parameter in release.base.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_a_fixed_calibration_trains_whatever_own_items_say() -> None:
    release = trap(small_release(), "recipe-bounded")
    assert release.calibration is not None
    row = release.calibration.of("stage3", 1)
    assert row is not None and row.adapts and row.epochs == release.settings.calibration.epochs
    assert reach_of(release.structure, release.settings, release.calibration) <= MOST_REACH
    assert release.settings.user.dropout == 0
    for name in ("scale-bounded", "scale-bold"):
        made = trap(small_release(), name)
        assert dataclasses.replace(made.structure, alpha=1.0) == dataclasses.replace(
            small_release().structure, alpha=1.0
        )


def test_weights_are_checked_whenever_a_release_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = build_bundle(sample_files(), sample_info(1), [KEY])
    bundle = install(tmp_path / "host", signed.all_files(), ROOT, now=NOW).bundle
    asked: list[bool] = []

    def refuse(release: object, *, embedded: bool) -> None:
        asked.append(embedded)
        raise BundleFormatError("a trap")

    loading.ReleaseMemory().load(bundle, None, threads=torch.get_num_threads())
    monkeypatch.setattr(checks, "check_weights", refuse)
    with pytest.raises(BundleFormatError, match="a trap"):
        loading.ReleaseMemory().load(bundle, None, threads=torch.get_num_threads())
    assert asked == [True]
