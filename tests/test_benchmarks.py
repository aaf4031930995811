"""Benchmarks race contenders that compute the same thing; here each is held to it, in float64.

Nothing in here is timed. Every equality has a control that breaks one contender and sees it.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.contenders import rival_peer
from benchmarks.contenders.build import CONTENDERS, build_world, llama_of, make_contender
from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.ours import Ours, Steady
from benchmarks.contenders.rival_peer import PYTHON, Peer, workload
from benchmarks.contenders.rival_peft import PeftLoop
from benchmarks.contenders.rival_stacked import StackedLoop
from benchmarks.contenders.rival_vmap import Vmap
from benchmarks.contenders.specs import Spec, parse_spec
from benchmarks.contenders.workload import CountingEncoder, Counts, Workload, make_users
from benchmarks.contenders.world import Contender, Factors, World
from benchmarks.engine import chosen_specs
from benchmarks.kinds import KINDS, SIZES, Seconds
from benchmarks.measuring import device_shapes
from benchmarks.measuring.agreement import REFERENCE, agreements, compared
from benchmarks.measuring.agreement import trained_by as compared_training
from benchmarks.measuring.device_shapes import SHAPES, _training_bytes
from benchmarks.measuring.processes import Child
from benchmarks.measuring.rounds import contender_result
from benchmarks.measuring.worker import Round, build, one_round
from proper_model.base.config import empty_model
from proper_model.engine.memory import MemoryModel
from proper_model.errors import ConfigError, TrainingError
from proper_model.kernels.packing import Encoded
from proper_model.settings.presets import preset
from proper_model.settings.shipped_profiles import load_profile
from tests.tiny import exact_norms

CPU = torch.device("cpu")
WORK = Workload("overhead", users=3, samples=4, tokens=14, lengths="ragged", seed=5)
PEER = "moe-peft"
TOLERANCE = 1e-9


def world_of(kind: str, *, batch: int = 1, work: Workload = WORK) -> World:
    # Hugging Face's eager attention takes its softmax in float32, whatever the model's dtype.
    spec = Spec(kind, batch=batch, dtype="float64", attention="sdpa")
    world = build_world(work, spec, device=CPU, keep=True)
    # Everybody has another number of samples, and so of steps.
    world.users = [
        dataclasses.replace(user, samples=user.samples[u:]) for u, user in enumerate(world.users)
    ]
    exact_norms(world.base)
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
        ("vmap-moe", "ours-moe"),
        ("stacked-loop", "ours-moe"),
    ],
)
def test_rivals_compute_what_the_engine_computes(rival, ours, batch, engine) -> None:
    assert apart(trained_by(rival, batch=batch), engine[ours, batch]) < TOLERANCE


def test_logits_at_answers_change_nothing_but_speed(engine) -> None:
    world = world_of("peft-loop")
    world.spec = dataclasses.replace(world.spec, logits="answer")
    assert apart(raced(PeftLoop(world)), engine["ours", 1]) < TOLERANCE


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


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("rival", [StackedLoop, Vmap])
@pytest.mark.parametrize("part", ["by_text", "by_user", "by_lora", "expert_a", "expert_b"])
def test_a_wrong_part_of_a_rivals_linear_is_noticed(part: str, rival, engine) -> None:
    one = rival(world_of("stacked-loop" if rival is StackedLoop else "vmap-moe"))
    getattr(list(one.linears.values())[-1], part).zero_()
    assert apart(raced(one), engine["ours-moe", 1]) > TOLERANCE


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_draws_dropout_row_by_row() -> None:
    """Two users whose samples, adapters and embeddings are alike: masks alone can part them."""
    trained = {}
    for dropout in (0.0, 0.5):
        world = world_of("vmap-moe", work=dataclasses.replace(WORK, users=2, lengths="fixed"))
        world.users[1] = world.users[0]
        world.settings = dataclasses.replace(world.settings, dropout=dropout)
        trained[dropout] = raced(Vmap(world))
    (a, _), (b, _) = trained[0.0][0][0], trained[0.0][1][0]
    assert torch.equal(a, b)
    (a, _), (b, _) = trained[0.5][0][0], trained[0.5][1][0]
    assert not torch.allclose(a, b)


def test_the_stacked_loop_leaves_its_base_as_it_was(engine, monkeypatch) -> None:
    """Also when its blocks are compiled: one program for all of them, whoever trains in between."""
    programs = []

    def noted(graph, inputs):
        programs.append(graph)
        return graph.forward

    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **how: plain(m, backend=noted, **how))
    torch.compiler.reset()
    work = dataclasses.replace(WORK, lengths="fixed")
    world = world_of("stacked-loop", work=work)
    world.spec = dataclasses.replace(world.spec, compile=True)
    before = dict(world.base.named_modules())
    rival = StackedLoop(world)
    ours = Ours(dataclasses.replace(world, spec=Spec("ours-moe", dtype="float64")), experts=True)
    for _ in range(2):
        assert apart(raced(rival), raced(ours)) < TOLERANCE
        assert {n: m for n, m in world.base.named_modules() if before.get(n) is not m} == {}
    assert len(programs) == 1
    torch.compiler.reset()


def test_the_steady_engine_takes_the_engines_steps(monkeypatch) -> None:
    """Of one user, whose start is everybody's; and its users' states go when the round ends."""
    work = dataclasses.replace(WORK, users=1)
    expected = raced(Ours(world_of("ours-moe", work=work), experts=True))
    steady = Steady(world_of("ours-moe", work=work), experts=True)
    cohorts, made = [], steady._steady
    monkeypatch.setattr(steady, "_steady", lambda: cohorts.append(made()) or cohorts[-1])
    steady.round(Stopwatch(CPU))
    half = len(cohorts[0].parameters) // 2
    a, b = cohorts[0].parameters[:half], cohorts[0].parameters[half:]
    trained = {0: [(x[0].detach(), y[0].detach()) for x, y in zip(a, b, strict=True)]}
    assert all(
        torch.equal(x, y)
        for mine, theirs in zip(trained[0], expected[0], strict=True)
        for x, y in zip(mine, theirs, strict=True)
    )
    assert sum(p.numel() for p in steady.model.lora.parameters()) == 0


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_training_is_compared_with_the_references_before_it_is_timed() -> None:
    """In the contender's own dtype, and the peer and the limit not at all."""
    kinds = ["ours", "ours-moe", "peft-loop", "stacked-loop", "vmap-moe", PEER, "limit"]
    specs = [Spec(kind, batch=batch) for kind in kinds for batch in (1, 2)]
    specs += [Spec("ours-moe", dtype="bfloat16"), Spec("ours-moe", tokens_per_step=99)]
    found = {(one.variant, one.dtype): one.error for one in agreements(specs)}
    assert len(found) == 11
    assert 1e-3 < (found.pop(("ours-moe", "bfloat16")) or 0) < 0.3
    assert all(error is not None and error < 1e-3 for error in found.values())


def test_a_contender_that_trains_something_else_is_far_from_the_reference() -> None:
    expected = compared_training(REFERENCE, CPU)
    for spec in (Spec("ours"), Spec("ours-moe", batch=2)):
        got = compared(
            "other", "float32", functools.partial(compared_training, spec, CPU), expected
        )
        assert got.error is not None
        assert got.error > 1e-2


@pytest.mark.parametrize("setting", ["max_grad_norm", "weight_decay", "epochs"])
def test_another_setting_of_the_peft_loop_is_noticed(setting: str, engine) -> None:
    world = world_of("peft-loop")
    value = getattr(world.settings, setting)
    world.settings = dataclasses.replace(world.settings, **{setting: value * 4})
    assert apart(raced(PeftLoop(world)), engine["ours", 1]) > TOLERANCE


def test_the_limit_makes_the_engines_own_passes() -> None:
    counts = {}
    for kind in ("limit", "ours", "peft-loop"):
        world = world_of(kind, batch=2)
        world.settings = dataclasses.replace(world.settings, tokens_per_step=40)
        make_contender(world).round(Stopwatch(CPU))
        counts[kind] = world.encoder.counts
    assert counts["limit"] == counts["ours"]
    assert counts["limit"].padded_tokens == counts["limit"].tokens
    assert counts["peft-loop"].padded_tokens > counts["peft-loop"].tokens
    for name in ("samples", "tokens", "logit_positions"):
        assert getattr(counts["limit"], name) == getattr(counts["peft-loop"], name)


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


def test_a_users_samples_do_not_depend_on_the_others() -> None:
    few = make_users(WORK, 512)
    many = make_users(dataclasses.replace(WORK, users=6), 512)
    assert many[: len(few)] == few
    fixed = make_users(dataclasses.replace(WORK, lengths="fixed"), 512)
    assert [[len(s.tokens) for s in u.samples] for u in fixed] == [[14] * 4] * 3
    assert all(2 <= s.answer_tokens <= 4 for u in many for s in u.samples)
    assert [len(u.samples) for u in few] == [4] * 3
    assert len({len(s.tokens) for u in few for s in u.samples}) > 3


def test_real_lengths_are_those_of_the_users(shared: Path) -> None:
    users = make_users(Workload("overhead", 4, 6, 32, "real", 0), 512)
    assert all(1 <= len(user.samples) <= 6 for user in users)
    assert len({len(s.tokens) for user in users for s in user.samples}) > 4


def test_specs_are_read_and_written() -> None:
    spec = parse_spec("peft-loop:batch=8,logits=answer,threads=2,dtype=bfloat16")
    assert spec == Spec("peft-loop", batch=8, threads=2, dtype="bfloat16", logits="answer")
    assert parse_spec(spec.label) == spec
    assert Spec("ours").label == "ours"
    compiled = Spec("stacked-loop", batch=4, compile=True)
    assert compiled.label == "stacked-loop:batch=4,compile=true"
    assert parse_spec(compiled.label) == compiled
    for wrong in (
        "nobody",
        "ours:batch=0",
        "ours:batch=x",
        "ours:speed=9",
        "ours:backend=quick",
        "ours:compile=true",
    ):
        with pytest.raises(ConfigError):
            parse_spec(wrong)


def test_the_engine_always_races_the_limit() -> None:
    few = "ours-moe:tokens_per_step=64"
    specs = chosen_specs(["ours", "ours-moe", "peft-loop", "ours:dtype=bfloat16", few])
    assert [s.label for s in specs if s.kind == "limit"] == [
        *("limit", "limit:dtype=bfloat16", "limit:tokens_per_step=64"),
    ]


SECONDS = Seconds(wall_s=2.0, cpu_s=1.0, setup_wall_s=0.2, setup_cpu_s=0.1)


def test_an_entry_holds_the_rounds_and_the_highest_peak() -> None:
    first = Round(SECONDS, Counts(10, 200, 250, 30, 2), 3, "eager", 900, 1002)
    slower = dataclasses.replace(SECONDS, wall_s=4.0)
    rounds = [first, dataclasses.replace(first, seconds=slower, peak_bytes=1000)]
    got = contender_result(Spec("ours", batch=2), rounds, None)
    assert (got.status, got.label, got.attention) == ("measured", "ours:batch=2", "eager")
    assert got.measured is not None
    assert (got.measured.users, got.measured.samples, got.measured.padded_tokens) == (3, 10, 250)
    assert (got.measured.memory_before_bytes, got.measured.memory_peak_bytes) == (900, 1002)
    assert got.measured.rounds == [SECONDS, slower]
    other = dataclasses.replace(first, counts=dataclasses.replace(first.counts, tokens=201))
    with pytest.raises(AssertionError, match="other work"):
        contender_result(Spec("ours"), [first, other], None)


def test_a_failed_contender_is_a_result_even_after_good_rounds() -> None:
    good = Round(SECONDS, Counts(1, 1, 1, 1, 1), 1, "eager", None, None)
    got = contender_result(Spec("vmap-moe"), [good], "RuntimeError")
    assert (got.status, got.cause, got.measured) == ("failed", "RuntimeError", None)


def test_every_kind_has_a_contender() -> None:
    assert CONTENDERS.keys() == KINDS.keys()
    for kind in CONTENDERS.keys() - {PEER}:
        assert make_contender(world_of(kind)).trained == {}


# Somebody else's program


def peer_world(**changed: Any) -> World:
    work = dataclasses.replace(Workload("overhead", 3, 2, 8, "fixed", 0), **changed)
    return build_world(work, Spec(PEER), device=CPU, dropout=0.05)


def test_the_peer_takes_the_engines_steps() -> None:
    """By hand: three users of two samples of 8, a step a sample: 2 steps, a pass each."""
    asked, counts = workload(peer_world())
    assert counts == Counts(6, 48, 48, counts.logit_positions, 2)
    assert [[[row[0] for row in rows] for rows in step] for step in asked["steps"]] == [
        [[0, 1, 2]],
        [[0, 1, 2]],
    ]
    assert (asked["samples"], asked["dropout"]) == ([2, 2, 2], 0.05)
    assert (asked["experts"], asked["rank"]) == (preset("default").experts, preset("default").rank)
    assert {row[3] for step in asked["steps"] for rows in step for row in rows} == {1.0}
    shape = SIZES["overhead"]
    assert (asked["base"]["hidden_size"], asked["base"]["vocab_size"]) == (64, shape.vocabulary)


def test_a_peer_that_is_not_there_is_a_cause(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rival_peer, "PYTHON", tmp_path / "python")
    with pytest.raises(ConfigError, match="make peer"):
        Peer(peer_world())


CHILD = """
import json, sys
work = json.loads(sys.stdin.readline())
print("{}", flush=True)
for line in sys.stdin:
    assert line == "round\\n"
    print(json.dumps({"wall_s": 2, "cpu_s": 1, "setup_wall_s": 0, "setup_cpu_s": 0}), flush=True)
    break
"""


def test_a_peer_times_itself_and_one_that_ends_is_a_cause(monkeypatch, tmp_path: Path) -> None:
    """One that says why, and one that says nothing: after a round, or at once."""
    child = tmp_path / "child.py"
    monkeypatch.setattr(rival_peer, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(rival_peer, "CHILD", child)
    for code, cause in (('print(\'{"cause": "no memory"}\')', "no memory"), ("", "Killed")):
        child.write_text(code)
        with pytest.raises(TrainingError, match=cause):
            Peer(peer_world())
    child.write_text(CHILD)
    world, clock = peer_world(), Stopwatch(CPU)
    peer = Peer(world)
    peer.round(clock)
    assert clock.seconds() == Seconds(2, 1, 0, 0)
    assert world.encoder.counts == peer.counts
    assert world.process == peer.process.pid
    with pytest.raises(TrainingError, match="Killed"):
        peer.round(clock)


@pytest.mark.full
@pytest.mark.skipif(not PYTHON.is_file(), reason="needs make peer")
def test_the_peer_trains() -> None:
    work, spec = dataclasses.replace(WORK, users=2, samples=2), Spec(PEER, batch=2)
    with Child() as child:
        child.call(build, work, spec, None, 0.0)
        got = child.call(one_round)
    assert got.seconds.cpu_s > 0
    assert (got.peak_bytes or 0) > (got.before_bytes or 0) > 0


# The memory model for published bases


def test_shapes_have_the_published_numbers_of_parameters() -> None:
    """135M, 1.24B and 6.74B, as their publishers count them."""
    counts = [
        sum(p.numel() for p in empty_model(llama_of(shape)).parameters())
        for shape in SHAPES.values()
    ]
    assert counts == [134_515_008, 1_235_814_400, 6_738_415_616]


def test_blocks_add_up() -> None:
    """Fixed part 100, every block 10 a slot and 1 a token; 7 blocks, by hand."""
    settings = load_profile("tiny")
    trials = len(settings.user.learning_rates)
    few, more = (MemoryModel(100 + 10 * n, n, 0) for n in (1, 2))
    tokens = min(settings.tokens_per_step, trials * settings.user.batch_size * 8)
    whole = MemoryModel(100 + 10 * 7, 7, 0)
    assert _training_bytes(7, few, more, settings, 8) == whole.peak(trials, tokens, trials)


def test_a_base_is_predicted_in_the_dtype_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2's shape by hand: 106 M weights in linears, 28 M beside them; 32 MiB of pieces."""
    monkeypatch.setattr(device_shapes, "_model_of", lambda *_: MemoryModel(1, 1, 0))
    rows = device_shapes.predict(
        "135M (SmolLM2)", preset("device"), load_profile("tiny"), sample_tokens=8
    )
    linears = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    rest = 134_515_008 - linears
    found = {(r.dtype, r.weights): r for r in rows if not r.recompute}
    assert found["float32", "full"].base_bytes == 4 * (linears + rest)
    assert found["bfloat16", "full"].base_bytes == 2 * (linears + rest)
    assert found["float32", "4bit"].base_bytes == linears * 9 // 16 + 4 * rest
    assert found["bfloat16", "4bit"].base_bytes == linears * 9 // 16 + 2 * rest
    one = 576 * 1536
    packed = found["float32", "4bit"]
    assert packed.loading_bytes == packed.base_bytes + 12 * one + (32 << 20)
    assert packed.training_bytes == found["float32", "full"].training_bytes + 4 * one
