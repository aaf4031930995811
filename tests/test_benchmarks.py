"""Benchmarks race contenders that compute the same thing; here each is held to it, in float64.

Nothing in here is timed. Every equality has a control that breaks one contender and sees it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks.contenders import make_contender
from benchmarks.engine import chosen_specs, grid
from benchmarks.figures import draw
from benchmarks.measure import Seconds, Stopwatch
from benchmarks.ours import Ours
from benchmarks.rival_loops import NaiveMoe, PeftLoop
from benchmarks.rounds import Plan, measure_setting
from benchmarks.schema import BenchReport, Spread, read_report, write_report
from benchmarks.sizes import SIZES, Shape, build_base
from benchmarks.specs import KINDS, Spec, parse_spec
from benchmarks.summaries import Run, contender_result, peak_of
from benchmarks.worker import Ready, Refused, Round
from benchmarks.workload import CountingEncoder, Counts, Workload, make_users
from benchmarks.world import Contender, Factors, NotPossibleError, World, build_world
from proper_model.errors import ConfigError, ReportError
from proper_model.kernels.packing import Encoded
from simulations.outcome.results import Hardware

CPU = torch.device("cpu")
WORK = Workload("overhead", users=3, samples=4, tokens=14, lengths="lognormal", seed=5)
# As in test_cohort: Hugging Face's RMSNorm computes in float32 inside. The Trainer's own loss does
# as well, which its tolerance has room for.
TOLERANCE = 2e-6


def world_of(kind: str, *, batch: int = 1, work: Workload = WORK) -> World:
    # Hugging Face's eager attention takes its softmax in float32, whatever the model's dtype.
    spec = Spec(kind, batch=batch, dtype="float64", attention="sdpa")
    world = build_world(work, spec, device=CPU, keep=True)
    # A norm this low clips every step, so that clipping is compared as well.
    world.settings = dataclasses.replace(world.settings, epochs=2, max_grad_norm=0.05)
    return world


def raced(contender: Contender) -> dict[int, Factors]:
    contender.round(Stopwatch(CPU))
    return contender.trained


def trained_by(kind: str, *, batch: int = 1) -> dict[int, Factors]:
    return raced(make_contender(world_of(kind, batch=batch)))


def apart(a: dict[int, Factors], b: dict[int, Factors]) -> float:
    """Largest difference of any adapter entry, over users, sites and factors."""
    assert a.keys() == b.keys() == set(range(WORK.users))
    return max(
        float((x - y).abs().max())
        for user in a
        for mine, theirs in zip(a[user], b[user], strict=True)
        for x, y in zip(mine, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def engine() -> dict[tuple[str, int], dict[int, Factors]]:
    return {(k, n): trained_by(k, batch=n) for k in ("ours", "ours-moe") for n in (1, 3)}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap over fused attention
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("rival", "ours"),
    [
        ("peft-loop", "ours"),
        ("vmap", "ours"),
        ("peft-mixed-eval", "ours"),
        ("naive-moe", "ours-moe"),
    ],
)
def test_rivals_compute_what_the_engine_computes(rival, ours, batch, engine) -> None:
    assert apart(trained_by(rival, batch=batch), engine[ours, batch]) < TOLERANCE


def test_the_trainer_computes_what_the_engine_computes(engine) -> None:
    """One sample a step: with more, the Trainer weighs answer tokens alike and not samples."""
    world = world_of("trainer")
    # `num_train_epochs` is one; the contender hands over all epochs as one data set.
    assert apart(raced(make_contender(world)), engine["ours", 1]) < TOLERANCE


def test_logits_at_answers_change_nothing_but_speed(engine) -> None:
    world = world_of("naive-moe")
    world.spec = dataclasses.replace(world.spec, logits="answer")
    assert apart(raced(NaiveMoe(world)), engine["ours-moe", 1]) < TOLERANCE


def test_experts_and_training_show_in_the_comparison(engine) -> None:
    """The control of all equalities: what they compare has moved, and experts matter to it."""
    assert apart(engine["ours", 1], engine["ours-moe", 1]) > 100 * TOLERANCE
    fresh = Ours(world_of("ours"), experts=False)
    start = [(a.detach(), b.detach()) for a, b in zip(*_stacked(fresh), strict=True)]
    moved = {u: [(a[u], b[u]) for a, b in start] for u in range(WORK.users)}
    assert apart(moved, engine["ours", 1]) > 100 * TOLERANCE


def _stacked(ours: Ours) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    both = ours._fresh_lora()
    return both[: len(both) // 2], both[len(both) // 2 :]


@pytest.mark.parametrize("part", ["by_text", "by_user", "by_lora", "experts", "embedding"])
def test_a_wrong_part_of_the_naive_loop_is_noticed(part: str, engine) -> None:
    rival = NaiveMoe(world_of("naive-moe"))
    linear = rival.linears[-1][1]
    if part == "experts":
        linear.experts = linear.experts[::-1]
    elif part == "embedding":
        enter = rival.enter

        def forgetful(number: int) -> None:
            enter(number)
            linear.embedding = torch.zeros_like(linear.embedding)

        rival.enter = forgetful  # type: ignore[method-assign]
    else:
        getattr(linear, part).detach().zero_()
    assert apart(raced(rival), engine["ours-moe", 1]) > TOLERANCE


@pytest.mark.parametrize("setting", ["max_grad_norm", "weight_decay", "epochs"])
def test_another_setting_of_the_peft_loop_is_noticed(setting: str, engine) -> None:
    world = world_of("peft-loop")
    value = getattr(world.settings, setting)
    world.settings = dataclasses.replace(world.settings, **{setting: value * 4})
    assert apart(raced(PeftLoop(world)), engine["ours", 1]) > TOLERANCE


def test_adapter_names_are_refused_in_training() -> None:
    with pytest.raises(NotPossibleError) as caught:
        raced(make_contender(world_of("peft-mixed")))
    assert caught.value.cause.startswith("ValueError: ")
    assert "training mode" in caught.value.cause


def test_the_limit_makes_the_engines_own_passes() -> None:
    counts = {}
    for kind in ("limit", "limit-stock", "ours", "peft-loop"):
        world = world_of(kind, batch=2)
        world.settings = dataclasses.replace(world.settings, tokens_per_step=40)
        make_contender(world).round(Stopwatch(CPU))
        counts[kind] = world.encoder.counts
    assert counts["limit"] == counts["ours"]
    assert counts["limit"].padded_tokens == counts["limit"].tokens
    assert counts["limit-stock"].padded_tokens > counts["limit-stock"].tokens
    for kind in ("limit", "limit-stock"):
        assert counts[kind].samples == counts["peft-loop"].samples
        assert counts[kind].tokens == counts["peft-loop"].tokens
        assert counts[kind].logit_positions == counts["peft-loop"].logit_positions


def test_counts_of_a_batch_by_hand() -> None:
    # 5 tokens of which 2 are answer, 8 of which 3 are: logits at 2 + 3 places.
    rows = [Encoded((2, 3, 4, 5, 1), 3), Encoded((2, 3, 4, 5, 6, 7, 8, 1), 5)]
    encoder = CountingEncoder()
    encoder.batch(rows, [0, 1])
    assert encoder.counts == Counts(
        samples=2, tokens=13, padded_tokens=13, logit_positions=5, passes=1
    )
    encoder = CountingEncoder()
    encoder.padded(rows, [0, 1])  # two rows of 8
    assert encoder.counts == Counts(
        samples=2, tokens=13, padded_tokens=16, logit_positions=5, passes=1
    )


def test_operations_by_hand() -> None:
    shape = Shape(hidden=2, layers=3, ffn=5, heads=1, vocabulary=7)
    assert shape.block_weights == 4 * 4 + 3 * 10
    # 10 tokens through 3 blocks of 46 weights, 4 logits of 2 x 7 weights, four operations each.
    assert shape.training_flops(10, 4) == 4 * 3 * 46 * 10 + 4 * 14 * 4
    # The design's figure for this shape is 26 GFLOP a token.
    assert round(SIZES["7b"].training_flops(1, 0) / 1e9) == 26


def test_a_built_base_has_the_weights_that_are_counted() -> None:
    shape = SIZES["overhead"]
    base = build_base("overhead", dtype=torch.float32, device=CPU, seed=0)
    linears = {
        name: m.weight.numel() for name, m in base.named_modules() if hasattr(m, "in_features")
    }
    assert linears.pop("lm_head") == shape.hidden * shape.vocabulary
    assert sum(linears.values()) == shape.layers * shape.block_weights
    products = sum(i * o * often for i, o, often in shape.products())
    assert products == shape.block_weights


def test_a_users_samples_do_not_depend_on_the_others() -> None:
    few = make_users(WORK, 512)
    many = make_users(dataclasses.replace(WORK, users=6), 512)
    assert many[: len(few)] == few
    assert len({len(user.samples) for user in many}) > 1
    fixed = make_users(dataclasses.replace(WORK, lengths="fixed"), 512)
    assert [[len(s.tokens) for s in u.samples] for u in fixed] == [[14] * 4] * 3
    assert all(2 <= s.answer_tokens <= 4 for u in many for s in u.samples)


def test_real_lengths_are_those_of_the_users(shared: Path) -> None:
    users = make_users(Workload("overhead", 4, 6, 32, "real", 0), 512)
    assert all(1 <= len(user.samples) <= 6 for user in users)
    assert len({len(s.tokens) for user in users for s in user.samples}) > 4


def test_specs_are_read_and_written() -> None:
    spec = parse_spec("peft-loop:batch=8,logits=answer", threads=2, dtype="bfloat16")
    assert spec == Spec("peft-loop", batch=8, threads=2, dtype="bfloat16", logits="answer")
    assert parse_spec(spec.label) == spec
    assert Spec("ours").label == "ours"
    for wrong in ("nobody", "ours:batch=0", "ours:batch=x", "ours:speed=9", "ours:backend=quick"):
        with pytest.raises(ConfigError):
            parse_spec(wrong)


def test_the_engine_always_races_the_limit() -> None:
    specs = chosen_specs(["ours", "ours-moe", "peft-loop", "ours:dtype=bfloat16"], 1, "float32", 64)
    assert [(s.kind, s.dtype) for s in specs if s.kind == "limit"] == [
        ("limit", "float32"),
        ("limit", "bfloat16"),
    ]
    assert all(s.tokens_per_step == 64 for s in specs)


def test_a_grid_is_all_combinations() -> None:
    works = grid(["overhead", "small"], [32, 96], [1, 8], ["fixed"], 2, 0)
    assert len(works) == len(set(works)) == 8
    with pytest.raises(ConfigError):
        grid(["enormous"], [32], [1], ["fixed"], 2, 0)
    with pytest.raises(ConfigError):
        grid(["small"], [32], [1], ["odd"], 2, 0)


def made_up(spec: Spec, walls: list[float], *, samples: int = 10, operations: int = 0) -> Run:
    """Rounds of 20 tokens a sample in 25 padded, CPU at half of the wall time."""
    counts = Counts(samples, 20 * samples, 25 * samples, 3 * samples, 2)
    rounds = [
        Round(Seconds(wall, wall / 2), Seconds(0.2, 0.1), counts, operations, 1000 + n)
        for n, wall in enumerate(walls)
    ]
    return Run(spec, Ready(2, "eager", 900), rounds, None)


def test_figures_of_made_up_rounds_by_hand() -> None:
    shape = Shape(hidden=2, layers=3, ffn=5, heads=1, vocabulary=7)
    ours = made_up(Spec("ours"), [1.0, 4.0, 2.0])
    naive = made_up(Spec("naive-moe"), [8.0, 8.0, 8.0], samples=5)
    peak = peak_of(made_up(Spec("matmul"), [2.0, 2.0, 2.0], operations=10**6))
    assert peak.flops_a_second.median == 5e5
    got = contender_result(ours, [ours, naive], [peak], shape, on_cpu=True, history_tokens=50)
    assert got.status == "measured"
    assert got.measured is not None
    assert got.measured.samples_a_second == Spread(median=5.0, low=2.5, high=10.0)
    assert got.measured.samples_a_cpu_second == Spread(median=10.0, low=5.0, high=20.0)
    assert got.measured.setup_s_a_user.median == 0.1
    assert got.measured.fill == 0.8
    assert got.measured.users_an_hour == 3600 * 100 / 50
    assert got.measured.memory_peak_bytes == 1002
    # 200 tokens and 30 logits: 4*138*200 + 4*14*30 operations in one CPU second at 1e6 at best.
    assert got.measured.flops == 112_080
    assert got.measured.share_of_peak == pytest.approx(0.11208)
    # Twice the tokens, in an eighth, a half and a quarter of the time.
    assert got.measured.against["naive-moe"].wall == Spread(median=8.0, low=4.0, high=16.0)


def test_inference_is_not_compared_with_training() -> None:
    shape = SIZES["overhead"]
    runs = [made_up(Spec(k), [1.0]) for k in ("ours-forward", "peft-mixed-forward", "peft-loop")]
    got = contender_result(runs[0], runs, [], shape, on_cpu=True, history_tokens=50)
    assert got.measured is not None
    assert list(got.measured.against) == ["peft-mixed-forward"]
    assert got.measured.share_of_peak is None
    whole = contender_result(runs[2], runs, [], shape, on_cpu=True, history_tokens=50)
    assert whole.measured is not None
    assert got.measured.flops == whole.measured.flops // 2


@pytest.fixture(scope="module")
def report() -> BenchReport:
    """Three contenders in processes of their own, one round each."""
    plan = Plan("cpu", 1, 0, 2, 0.0, 48_000, interleaved=True)
    specs = [Spec("ours-moe"), Spec("naive-moe"), Spec("peft-mixed"), Spec("limit")]
    works = [Workload("overhead", users, 1, 8, "fixed", 0) for users in (2, 3)]
    return BenchReport(
        benchmark="engine",
        hardware=Hardware(
            system="x", cpu="x", cores=1, ram_bytes=1, gpu=None, python="3", torch="2"
        ),
        device="cpu",
        commit="unknown",
        versions={"torch": "2"},
        seed=0,
        rounds=1,
        warmup=0,
        dropout=0.0,
        history_tokens=48_000,
        interleaved=True,
        load_before=0.0,
        settings=[measure_setting(work, specs, plan, lambda _: None) for work in works],
    )


def test_contenders_run_in_processes_of_their_own(report: BenchReport) -> None:
    by_kind = {c.kind: c for c in report.settings[1].contenders}
    assert by_kind["peft-mixed"].status == "not possible in training"
    cause = by_kind["peft-mixed"].cause or ""
    assert cause.startswith("ValueError: ")
    assert "adapter_names" in cause, "PEFT's own words"
    ours, naive = by_kind["ours-moe"].measured, by_kind["naive-moe"].measured
    assert ours is not None
    assert naive is not None
    assert (ours.users, ours.tokens, ours.fill) == (3, 24, 1.0)
    assert (naive.users, naive.tokens) == (2, 16)  # `rival_users`
    assert set(ours.against) == {"naive-moe", "limit"}
    assert ours.share_of_peak is not None
    assert [p.dtype for p in report.settings[0].peaks] == ["float32"]


def test_a_failed_contender_is_a_result() -> None:
    run = Run(Spec("vmap"), None, [], Refused(impossible=False, cause="RuntimeError"))
    got = contender_result(run, [run], [], SIZES["small"], on_cpu=True, history_tokens=1)
    assert (got.status, got.cause, got.measured) == ("failed", "RuntimeError", None)


def test_reports_survive_the_file(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.json"
    write_report(report, path)
    assert read_report(path) == report


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), 2),
        (("schema",), True),
        (("benchmark",), "other"),
        (("extra",), 1),
        (("rounds",), "1"),
        (("rounds",), 0),
        (("settings",), []),
        (("settings", 0, "users"), 2.5),
        (("settings", 0, "contenders", 0, "status"), "failed"),
        (("settings", 0, "contenders", 0, "measured", "fill"), 1.5),
        (("settings", 0, "contenders", 0, "measured", "fill"), None),
        (("settings", 0, "contenders", 0, "measured", "tokens_a_second", "low"), 1e12),
        (("settings", 0, "contenders", 2, "cause"), None),
    ],
)
def test_wrong_fields_are_refused(place, value, report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_report(report, path)
    document = json.loads(path.read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ReportError, match="schema 1"):
        read_report(path)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="nothing.json"):
        read_report(tmp_path / "nothing.json")


def test_figures_are_drawn_from_the_file(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "bench.json")
    paths = draw(tmp_path / "bench.json", tmp_path / "figures")
    assert {path.name for path in paths} == {
        f"{name}.{kind}"
        for name in (
            "growth-overhead-fixed-8x1",
            "ratios-overhead-fixed-8x1-2",
            "ratios-overhead-fixed-8x1-3",
        )
        for kind in ("svg", "png")
    }
    text = (tmp_path / "figures" / "ratios-overhead-fixed-8x1-2.svg").read_text()
    assert "naive-moe" in text
    again = draw(tmp_path / "bench.json", tmp_path / "again")
    assert again[0].read_bytes() == paths[0].read_bytes()


def test_every_kind_has_a_contender() -> None:
    for kind in set(KINDS) - {"matmul"}:
        assert make_contender(world_of(kind)).trained == {}
