"""`python -m benchmarks.gpu`: it runs where little is installed, and what it writes is read.

Everything here runs on a CPU over a tiny base, without compiling; nothing is timed.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.command import run_command
from benchmarks.contenders.build import build_base
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import Workload
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import machine, race, session
from benchmarks.gpu.agreement import agreements
from benchmarks.gpu.budget import Budget, OutOfTimeError
from benchmarks.gpu.document import Entry, Peaks, RaceSetting
from benchmarks.gpu.flops import linear_weights, unneeded, useful
from benchmarks.gpu.plan import Planned, planned
from benchmarks.gpu.race import Race
from benchmarks.gpu.session import chosen_variants
from benchmarks.gpu.variants import VARIANTS, Variant, with_backend
from benchmarks.kinds import SIZES, Seconds, Shape
from benchmarks.results import read_report, read_sources, shown
from benchmarks.results.schema import GpuReport
from benchmarks.results.tables import race_table
from proper_model.engine.memory import MemoryModel
from proper_model.errors import ConfigError, ReportError
from proper_model.kernels.ops import Backend
from proper_model.kernels.packing import Encoded

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
# What a machine with a GPU need not have.
ABSENT = ("pydantic", "pydantic_core", "flwr", "ray", "datasets", "rouge_score", "matplotlib")
BARE = (
    "import runpy, sys\n"
    f"for name in {ABSENT!r}: sys.modules[name] = None\n"
    "del sys.argv[0]\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
)
QUICK = ["--device", "cpu", "--size", "overhead", "--users", "3", "--tokens", "12", "--no-compile"]


@pytest.fixture(autouse=True)
def began(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's time runs from the import of its module, for tests perhaps minutes ago."""
    monkeypatch.setattr(command, "BEGAN", time.monotonic())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[GpuReport, Path]:
    """One run in a process that finds nothing but what such a machine has."""
    out = tmp_path_factory.mktemp("gpu") / "new" / "cpu.json"
    words = [sys.executable, "-c", BARE, "benchmarks.gpu", *QUICK, "--rounds", "1"]
    words += ["--seconds", "100000", "--commit", "a-commit", "--out", str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    found = read_report(out)
    assert isinstance(found, GpuReport)
    return found, out


def test_a_bare_machine_measures_everybody(report) -> None:
    found, _ = report
    assert (found.commit, found.device, found.accelerator) == ("a-commit", "cpu", None)
    assert (found.dtype, found.skipped) == ("bfloat16", [])
    assert found.variants.keys() == VARIANTS.keys()
    assert [(one.lengths, one.dropout) for one in found.settings] == [
        ("fixed", 0.0),
        ("ragged", 0.05),
    ]
    for setting in found.settings:
        names = {entry.label for entry in setting.entries}
        engines = {
            f"{name}{batch}"
            for name, variant in VARIANTS.items()
            for batch in ("", ":batch=4")
            if not variant.part or (not batch and setting.lengths == "fixed")
        }
        assert names == engines | {"limit", "stacked-loop", "stacked-loop:batch=4"}
        for entry in setting.entries:
            assert entry.status == "measured", entry.cause
            assert (entry.users, entry.samples) == (3, 12)
            # The engine is measured once before its rivals compile.
            assert len(entry.rounds) == (1 if entry.kind == "stacked-loop" else 2)
            assert entry.padded_tokens >= entry.tokens
            assert (entry.memory_predicted_bytes is not None) == (entry.variant is not None)
        assert len({entry.flops for entry in setting.entries}) == 1
        assert len({entry.tokens for entry in setting.entries}) == 1
        passes = {entry.label: entry.passes for entry in setting.entries}
        assert (passes["stacked-loop"], passes["stacked-loop:batch=4"]) == (12, 3)
        assert passes["limit"] == passes["grouped"] == 4


def test_variants_agree_with_the_reference(report) -> None:
    errors = {(one.variant, one.dtype): one.error for one in report[0].agreement}
    assert errors.keys() == {(v, d) for v in VARIANTS for d in ("float32", "bfloat16")} | {
        ("reference", "bfloat16")
    }
    for name in VARIANTS:
        assert errors[name, "float32"] < 1e-4
        assert errors[name, "bfloat16"] < 2 * errors["reference", "bfloat16"]


def test_what_was_measured_is_shown(report) -> None:
    parts = shown(read_sources([report[1]]))
    assert len(parts) == 3
    assert "hidden 64 (overhead), 3 users, 4 samples of 12 tokens (ragged)" in parts[1][0].title
    assert {row[0] for row in parts[2][0].rows} == {*VARIANTS, "reference"}


def test_a_damaged_file_is_refused(report, tmp_path: Path) -> None:
    good = json.loads(report[1].read_text())
    for change in (
        lambda d: d["settings"][0]["entries"][0].update(speed=1),
        lambda d: d["settings"][0]["entries"][0].update(status="failed"),
        lambda d: d["peaks"].update(side="8192"),
        lambda d: d["agreement"][0].pop("dtype"),
    ):
        document = json.loads(json.dumps(good))
        change(document)
        (tmp_path / "bad.json").write_text(json.dumps(document))
        with pytest.raises(ReportError, match=r"bad\.json"):
            read_report(tmp_path / "bad.json")


def test_a_variant_that_computes_something_else_is_seen() -> None:
    def wrong(ours: Ours) -> None:
        ours.model.structure = dataclasses.replace(ours.model.structure, alpha=1.0)

    def broken(_: Ours) -> None:
        raise RuntimeError("no such kernel")

    tried = {"wrong": Variant("", wrong), "broken": Variant("", broken)}
    found = {(one.variant, one.dtype): one for one in agreements(tried, CPU)}
    assert (found["wrong", "float32"].error or 0) > 1e-3
    assert found["broken", "float32"].error is None
    assert found["broken", "float32"].cause == "RuntimeError: no such kernel"


def raced(variants: dict[str, Variant], budget: Budget, *, compiled: bool = False) -> RaceSetting:
    base = build_base(SIZES["overhead"], Spec("ours-moe", dtype="bfloat16"), CPU, seed=0)
    plan = Planned(Workload("overhead", 2, 4, 10, "fixed", 0), 0.0, True)
    modules = dict(base.named_modules())
    one = Race(
        plan,
        SIZES["overhead"],
        base,
        variants,
        budget,
        rounds=1,
        compiled=compiled,
        peak_flops=1e12,
        say=lambda _: None,
        publish=lambda: None,
    )
    one.run()
    assert {n for n, m in base.named_modules() if modules.get(n) is not m} == set()
    return one.setting


def test_one_failure_is_a_result_and_the_others_go_on(monkeypatch) -> None:
    """A variant that raises in its rounds, one that cannot be set up, rivals that do not compile."""

    def late(ours: Ours) -> None:
        def around():
            raise RuntimeError("late")

        monkeypatch.setattr(race, "memory_model", lambda *_: MemoryModel(1, 1))
        ours.model.backend = Backend.FUSED
        if ours.world.spec.batch == 4:
            ours.around = around

    def early(_: Ours) -> None:
        raise torch.OutOfMemoryError("early")

    def compiler(module, **_: object):
        def forward(*_: object, **__: object) -> None:
            raise RuntimeError("no compiler")

        made = torch.nn.Module()
        made.forward = forward
        return made

    monkeypatch.setattr(torch, "compile", compiler)
    tried = {"early": Variant("", early), "late": Variant("", late)}
    found = raced(tried, Budget(1e5, time.monotonic()), compiled=True)
    told = {entry.label: (entry.status, entry.cause) for entry in found.entries}
    assert told == {
        "early": ("failed", "OutOfMemoryError: early"),
        "late": ("measured", None),
        "early:batch=4": ("failed", "OutOfMemoryError: early"),
        "late:batch=4": ("failed", "RuntimeError: late"),
        "limit": ("measured", None),
        "stacked-loop:compile=true": ("failed", "RuntimeError: no compiler"),
        "stacked-loop:batch=4,compile=true": ("failed", "RuntimeError: no compiler"),
        "stacked-loop": ("measured", None),
        "stacked-loop:batch=4": ("measured", None),
    }


def test_users_and_tokens_follow_from_memory(monkeypatch) -> None:
    """By hand: 2 users at 100 MB each do not fit 150 MB, of which 15 % stay free; one does, and the
    workspace of 8 MiB and 10^5 bytes a token leave room for 191 tokens, more than its step has.
    """
    monkeypatch.setattr(race, "free_bytes", lambda _: 150_000_000)
    monkeypatch.setattr(race, "memory_model", lambda *_: MemoryModel(100_000_000, 100_000))
    found = raced({"grouped": VARIANTS["grouped"]}, Budget(1e5, time.monotonic()))
    assert (found.users, found.tokens_per_step) == (1, 191)
    engine = found.entries[0]
    assert (engine.users, engine.samples) == (1, 4)
    assert engine.memory_predicted_bytes == 100_000_000 + 10 * 100_000 + (8 << 20)


def test_an_engine_that_has_no_time_left_is_skipped() -> None:
    found = raced({"grouped": VARIANTS["grouped"]}, Budget(1.0, time.monotonic() - 2))
    assert {entry.status for entry in found.entries} == {"skipped"}


def test_a_budget_ends_what_goes_on() -> None:
    budget = Budget(1e4, time.monotonic())
    with pytest.raises(OutOfTimeError, match="more than 0 s"), budget.at_most(0.05):
        time.sleep(60)
    with budget.at_most(1000):
        pass
    assert 0 < budget.left < 1e4
    with pytest.raises(OutOfTimeError), Budget(1, time.monotonic() - 2).at_most():
        pass


def test_what_ends_a_setting_or_the_comparison_does_not_end_the_command(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(session, "agreements", broken)
    monkeypatch.setattr(Race, "_settle", broken)
    out = tmp_path / "o.json"
    words = [*QUICK, "--variant", "grouped", "--rounds", "1", "--out", str(out)]
    assert run_command(command.app, words) == ReportError.exit_code
    found = read_report(out)
    assert isinstance(found, GpuReport)
    assert [one.reason for one in found.skipped] == ["ended by RuntimeError: no such device"] * 2
    assert [one.cause for one in found.agreement] == ["RuntimeError: no such device"]
    assert "the reference did not train" in capsys.readouterr().err


def test_settings_come_by_importance() -> None:
    plans = planned(["135m", "7b"], users=(), samples=4, tokens=150, seed=0)
    assert [(p.work.size, p.work.users, p.work.lengths, p.rivals) for p in plans] == [
        ("7b", 64, "fixed", True),
        ("135m", 256, "fixed", True),
        ("7b", 64, "ragged", True),
        ("135m", 256, "ragged", True),
        *(("7b", n, "fixed", False) for n in (32, 128)),
        *(("135m", n, "fixed", False) for n in (32, 128)),
    ]


def test_operations_by_hand() -> None:
    """Two layers of 4 wide with one key head of two: 2 (2*4*(4+2) + 3*4*8) = 288 weights."""
    shape = Shape(hidden=4, layers=2, ffn=8, heads=2, kv_heads=1, vocabulary=10, tied=True)
    assert linear_weights(shape) == 288
    one = Encoded((2, 3, 4, 5, 1), 3)  # 5 tokens, 2 of which carry loss; 15 pairs
    pairs = 2 * 2 * 2 * 4 * 15 * 3  # layers, products, operations, width, pairs; there and back
    assert useful([one, one], shape) == 2 * (4 * 288 * 5 + pairs + 4 * 4 * 10 * 2)
    # As docs/performance.md section 2 has it.
    assert 4 * linear_weights(SIZES["7b"]) == 4 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)


def test_docs_say_what_a_share_of_the_peak_counts_too_much() -> None:
    """By hand: two operations a weight, of 4 d^2 + 2 d f of the first block, of 4 a weight of all."""
    by_hand = 2 * (4 * 4096**2 + 2 * 4096 * 11008) / (4 * linear_weights(SIZES["7b"]))
    assert unneeded(SIZES["7b"]) == by_hand
    shares = {size: f"{100 * unneeded(SIZES[size]):.1f} %" for size in ("7b", "135m", "1b")}
    text = " ".join((ROOT / "docs/performance.md").read_text(encoding="utf-8").split())
    assert "{7b} over 7B, {135m} over 135M, {1b} over 1B".format(**shares) in text, shares


def entry(kind: str, seconds: list[float], *, batch: int = 1, tokens: int = 100) -> Entry:
    return Entry(
        label=f"{kind}{batch}",
        kind=kind,
        variant=None,
        batch=batch,
        compiled=False,
        status="measured",
        cause=None,
        users=2,
        samples=10,
        tokens=tokens,
        passes=1,
        flops=10**12,
        rounds=[Seconds(s, s, 0.0, 0.0) for s in seconds],
    )


def test_a_table_of_a_race_by_hand() -> None:
    """A half second for 10^12 operations is 2 TFLOP/s, a fifth of 10; 200 tokens a second are 15
    users an hour; the loop of as many samples in a step makes 50 and 100, the other one is not it.
    """
    entries = [
        entry("ours-moe", [9.0, 0.5, 0.5]),
        entry("stacked-loop", [2.0, 1.0]),
        entry("stacked-loop", [1.0, 1.0], batch=4, tokens=1000),
        Entry("x", "ours-moe", "x", 1, False, "failed", "RuntimeError: no memory"),
    ]
    setting = RaceSetting("7b", 2, 5, 10, "fixed", 0.0, 4096, 1, entries)
    table = race_table(setting, Peaks(8, [1e13, 2e13, 1e12], [1.0]))
    ours, loop, _, failed = table.rows
    assert ours[:7] == ("ours-moe1", "2", "20.0", "200", "2", "20.0%", "15")
    assert ours[7] == "3.00 (2.00–4.00)"
    assert loop[7] == "1.00 (1.00–1.00)"
    assert failed[:3] == ("x", "–", "failed (RuntimeError)")
    with pytest.raises(ValueError, match="has rounds"):
        Entry("x", "ours-moe", "x", 1, False, "failed", None)


def test_what_is_unknown_is_refused_before_anything_is_measured(tmp_path: Path, capsys) -> None:
    good = ["--out", str(tmp_path / "o.json")]
    for words, said in (
        ([*QUICK, "--variant", "magic"], "magic"),
        (["--device", "cpu", "--size", "enormous"], "enormous"),
        (["--device", "tpu"], "tpu"),
    ):
        assert run_command(command.app, [*good, *words]) == ConfigError.exit_code
        assert said in capsys.readouterr().err
    assert chosen_variants(["grouped"]) == {"grouped": VARIANTS["grouped"]}
    assert list(tmp_path.iterdir()) == []


def test_facts_of_a_gpu(tmp_path: Path, monkeypatch) -> None:
    told = tmp_path / "version"
    for text, number in (
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release",
            "570.86.10",
        ),
    ):
        told.write_text(text)
        assert machine.driver(told) == number
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    assert machine.driver(tmp_path / "none") is None
    found = SimpleNamespace(name="Abacus", total_memory=2**36, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    used = machine.accelerator(torch.device("cuda", 0))
    assert used is not None
    assert (used.name, used.memory_bytes, used.capability) == ("Abacus", 2**36, "9.0")
    assert "triton" not in machine.versions() or machine.versions()["triton"]


def test_every_variant_configures_an_engine() -> None:
    ours = SimpleNamespace(model=SimpleNamespace(backend=None))
    with_backend(Backend.GROUPED)(ours)  # type: ignore[arg-type]
    assert ours.model.backend is Backend.GROUPED
