"""Estimates: counted by hand where they can be, monotone where they cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from run_folders import make_user
from transformers import LlamaConfig

from proper_model.base.sizes import BaseShape
from proper_model.checks import FoundBase
from proper_model.settings.presets import preset
from proper_model.settings.profile import BaseWeights, CalibrationSettings
from proper_model.settings.shipped_profiles import load_profile
from proper_model.tasks.records import Population
from proper_model.tasks.task import load_task
from proper_model.text.encoding import Encoder
from simulations.setup.costs import measure
from simulations.setup.estimate import (
    SAMPLE_USERS,
    Estimate,
    Shape,
    Speed,
    Tokens,
    as_table,
    count_tokens,
    estimate,
)
from simulations.synthetic.tiny_base import word_tokenizer

TINY = load_profile("tiny")
SPEED = Speed(forward=2000.0, training=1000.0)
SHAPE = Shape(layers=2, hidden=64, ffn=128, base=BaseShape((), 100_000))
TOKENS = Tokens(
    pooled_queries=1000.0,
    pooled_history=9000.0,
    cohort_history=4000.0,
    test_history=2000.0,
    test_queries=500.0,
    row=50,
)
ALL = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3", "stage3-shuffled")


def cost(tokens: Tokens = TOKENS, structure: str = "default", **change: object) -> Estimate:
    given = {"arms": ALL, "users": 10, "processes": 2, "settings": TINY} | change
    return estimate(tokens, SPEED, SPEED, SHAPE, preset(structure), **given)  # type: ignore[arg-type]


def small_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


def test_stage_1_is_epochs_times_tokens_over_speed() -> None:
    # 3 epochs of 10,000 tokens at 1.3 times the base's cost, 1.6 times slower at worst; with
    # patience 1 the earliest stop is after 2 epochs, 0.8 times at best.
    stage = cost().seconds["stage 1"]
    assert stage.high == pytest.approx(3 * 10_000 / 1000 * 1.3 * 1.6)
    assert stage.low == pytest.approx(2 * 10_000 / 1000 * 1.3 * 0.8)


def test_every_range_is_ordered_and_sums_up() -> None:
    found = cost()
    for part in (*found.seconds.values(), found.memory_bytes, found.disk_bytes):
        assert 0 <= part.low <= part.high
    assert found.total_seconds.high == pytest.approx(sum(p.high for p in found.seconds.values()))


def test_calibration_costs_once_and_devices_train_once() -> None:
    """4 epochs of 2 shrinkages at 2 rates, and at one from the common start, and twice of what was
    chosen; 3 rounds over the cohort.
    """
    calibrating = replace(TOKENS, calibrating_history=300.0)
    settings = replace(TINY, calibration=CalibrationSettings(people=20, start_rounds=3))
    found = cost(calibrating, settings=settings)
    passes = 2 * 3 * 4 + 2 * 4
    expected = (1.3 + 1.8) * (3 * 4000.0 + passes * 300.0) / 1000
    assert found.seconds["calibration"].high == pytest.approx(expected * 1.6)
    assert cost().seconds["calibration"].high == 0
    usual = replace(TINY, calibration=CalibrationSettings(people=20))
    without = (1.3 + 1.8) * (2 * 2 * 4 + 2 * 4) * 300.0 / 1000
    assert cost(calibrating, settings=usual).seconds["calibration"].high == pytest.approx(
        without * 1.6
    )
    # On a device at most 4 epochs and as many to confirm; before, 4 epochs at 2 rates and no refit.
    assert found.seconds["stage 3"].high <= cost().seconds["stage 3"].high
    assert found.seconds["stage 3"].low < cost().seconds["stage 3"].low / 2


def test_arms_hosts_and_presets_change_what_they_should() -> None:
    whole, few = cost(), cost(arms=("stage1",))
    assert few.seconds["stage 3"].high == 0
    assert few.seconds["stage 2"] == whole.seconds["stage 2"]
    assert cost(processes=1).seconds["stage 3"].high == pytest.approx(
        2 * whole.seconds["stage 3"].high
    )
    assert cost(structure="device").seconds["router"].high == 0
    assert cost(structure="paper").seconds["router"].high == pytest.approx(
        2 * whole.seconds["router"].high
    )


def test_a_reference_needs_less_disk_than_an_embedded_base() -> None:
    assert cost(embed_base=False).disk_bytes.high < cost(embed_base=True).disk_bytes.high


def test_folds_multiply_time_and_disk_but_not_memory() -> None:
    one, five = cost(), cost().times(5)
    assert five.total_seconds.low == pytest.approx(5 * one.total_seconds.low)
    assert five.disk_bytes.high == pytest.approx(5 * one.disk_bytes.high)
    assert five.memory_bytes == one.memory_bytes


def test_a_budget_bounds_the_memory_of_every_process() -> None:
    free, bound = cost(), cost(training_bytes=10 * 2**20)
    # 2 layers of 16 x 64 and 6 x 128 numbers of 4 bytes a token, 8192 of them: 112 MiB.
    activations = TINY.tokens_per_step * 2 * (16 * 64 + 6 * 128) * 4
    saved = 2.5 * (activations - 10 * 2**20)
    assert free.memory_bytes.high - bound.memory_bytes.high == pytest.approx(saved)
    longest = (TINY.max_prompt_tokens + TINY.max_answer_tokens) / TINY.tokens_per_step
    least = cost(training_bytes=1)
    saved = 2.5 * activations * (1 - longest)
    assert free.memory_bytes.high - least.memory_bytes.high == pytest.approx(saved)


def test_a_budget_below_one_sample_is_told() -> None:
    """The longest sample is trained on whatever the budget says; 2 layers, 4 bytes a number."""
    longest = TINY.max_prompt_tokens + TINY.max_answer_tokens
    least = longest * 2 * (16 * 64 + 6 * 128) * 4
    told = cost(training_bytes=least - 1)
    assert told.exceeding_bytes == told.times(3).exceeding_bytes == least
    assert any("over the memory budget" in row[0] for row in as_table(told).rows)
    for enough in (None, least):
        fits = cost(training_bytes=enough)
        assert not any("over" in row[0] for row in as_table(fits).rows)


def test_a_packed_base_is_estimated_as_it_is_held() -> None:
    """80,000 of 100,000 weights in linears: two nodes save 3.44 bytes of each; the server none."""
    shape = replace(SHAPE, base=BaseShape((40_000, 40_000), 20_000))
    packed = replace(TINY, base_weights=BaseWeights.FOUR_BIT)
    settings = {"arms": ALL, "users": 10, "processes": 2}
    full, four = (
        estimate(TOKENS, SPEED, SPEED, shape, preset("default"), profile, **settings)  # type: ignore[arg-type]
        for profile in (TINY, packed)
    )
    saved = 2 * (40_000 * 4 - 20_000 - 40_000 // 64 * 4)
    assert full.memory_bytes.low - four.memory_bytes.low == pytest.approx(saved)
    assert full.memory_bytes.high - four.memory_bytes.high == pytest.approx(2 * saved)


def test_table_has_a_row_a_phase_and_the_totals() -> None:
    rows = {row[0]: row[1:] for row in as_table(cost()).rows}
    assert list(rows)[-3:] == ["time in all", "memory", "disk"]
    assert rows["stage 1"] == ("21 s", "62 s")
    assert "| stage 1 | 21 s | 62 s |" in str(cost())


def encoder() -> Encoder:
    words = ["film", "a", "tag:", "comedy", "action", *map(str, range(9))]
    return Encoder(word_tokenizer(words), max_prompt_tokens=96, max_answer_tokens=8)


def test_tokens_are_those_that_training_will_see() -> None:
    task = load_task("LaMP_2M", template="short")
    users = tuple(make_user(f"u{i}", ["comedy", "action"]) for i in range(4))
    tokens = count_tokens(Population("p", users[:3], users[3:]), task, encoder(), TINY)
    lengths = [
        len(encoder().encode(task.history_example(item)).tokens) for item in users[0].history
    ]
    assert tokens.pooled_history == 3 * sum(lengths)
    assert tokens.test_history == sum(lengths)
    assert tokens.cohort_history == tokens.pooled_history  # three users are all in the cohort
    capped = replace(TINY, group=replace(TINY.group, max_items_per_user=1))
    fewer = count_tokens(Population("p", users[:3], users[3:]), task, encoder(), capped)
    assert fewer.pooled_history == 3 * lengths[1]


def test_many_users_are_sampled_and_extrapolated() -> None:
    task = load_task("LaMP_2M", template="short")
    users = tuple(make_user(f"u{i}", ["comedy"]) for i in range(3 * SAMPLE_USERS + 1))
    tokens = count_tokens(Population("p", users, users[:1]), task, encoder(), TINY)
    assert tokens.pooled_history == pytest.approx(len(users) * tokens.test_history)


def test_shape_is_counted_without_weights() -> None:
    shape = Shape.of(FoundBase("small", "small", small_config()))
    a_layer = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16
    linears = (*(4 * (16 * 16,)), *(3 * (16 * 24,)))
    rest = 50 * 16 + 4 * a_layer + 16 - 4 * sum(linears)
    assert shape == Shape(4, 16, 24, BaseShape(4 * linears, rest))


def test_measuring_gives_positive_speeds_and_keeps_the_threads() -> None:
    before = torch.get_num_threads()
    speed = measure(small_config(), tokens=8, batch=2, dtype=torch.float32, threads=1)
    assert speed.forward > speed.training > 0
    assert torch.get_num_threads() == before
