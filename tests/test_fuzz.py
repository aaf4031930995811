"""A few seconds of `make fuzz` with a fixed seed, and that the fuzzer sees what it is to see."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from proper_model.errors import DataError
from tests.fuzz import __main__ as program
from tests.fuzz import harness
from tests.fuzz.__main__ import TARGETS, make_targets
from tests.fuzz.harness import CANARY, Tally, case_rng, run, table, try_case
from tests.fuzz.history_targets import HistoryTarget, sample
from tests.fuzz.mutators import spoil_bytes, spoil_json, spoil_tensors, spoil_toml
from tests.fuzz.release_targets import release_files
from tests.histories import READ

# Cases of a target, so many that each takes well under a second.
CASES = {
    "vault": 40,
    "passphrase": 40,
    "backup": 60,
    "document": 150,
    "import": 3,
    "trust": 200,
    "publisher": 6,
    "release": 5,
    "history": 80,
    "questions": 80,
    "task": 200,
    "profile": 60,
    "data": 40,
    "address": 500,
}


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input_is_refused_or_right(name: str, tmp_path: Path) -> None:
    (target,) = make_targets(tmp_path, [name])
    control = Tally()
    assert try_case(target, target.sound(), control) is None, "the positive control"
    assert control.accepted == 1, f"the positive control is refused as {dict(control.refused)}"
    tallies = run([target], seed=11, cases=CASES[name])
    assert tallies[name].cases == CASES[name]
    assert tallies[name].failed == 0, "\n".join(table(tallies))


def test_samples_of_exports_are_read_as_they_are_with_a_canary_in_them(tmp_path: Path) -> None:
    target = HistoryTarget(tmp_path)
    assert {name: target.judge(sample(name)) for name in READ} == dict.fromkeys(READ)


class Planted:
    """A program with a fault: what it does with the number in its input."""

    name = "planted"

    def __init__(self, folder: Path) -> None:
        del folder

    def sound(self) -> dict[str, bytes]:
        return {"number": b"0"}

    def case(self, rng: Random) -> dict[str, bytes]:
        return {"number": str(rng.randrange(6)).encode()}

    def judge(self, files: dict[str, bytes]) -> str | None:
        number = int(files["number"])
        if number == 1:
            raise DataError("history.csv: line 2: refused as it should be")
        if number == 2:
            return {}["missing"]
        if number == 3:
            return "took what it should not"
        if number == 4:
            raise DataError("refused", hint=f"found {CANARY}")
        while number == 5:
            pass
        return None


def judged(number: int) -> Tally:
    tally = Tally()
    try_case(Planted(Path()), {"number": str(number).encode()}, tally)
    return tally


def test_each_kind_of_outcome_is_counted_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "CASE_SECONDS", 0.05)
    assert (judged(0).accepted, judged(0).failed) == (1, 0)
    assert (dict(judged(1).refused), judged(1).failed) == ({"DataError": 1}, 0)
    (cause,) = judged(2).internal
    assert cause.startswith("KeyError in test_fuzz.py:")
    assert dict(judged(3).silent) == {"took what it should not": 1}
    assert dict(judged(4).silent) == {"DataError quotes the person's text": 1}
    assert dict(judged(5).internal) == {"no end after 0.05 s": 1}


def test_a_fault_ends_in_exit_code_1_a_table_and_an_input_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "CASE_SECONDS", 0.02)
    monkeypatch.setattr(program, "quiet", lambda: None)
    monkeypatch.setattr(program, "TARGETS", {"planted": Planted})
    out = tmp_path / "out"
    assert program.main(["--minutes", "0.01", "--seed", "5", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("seed 5, 0.01 minutes\n")
    assert "planted: silent" in printed
    assert "planted: internal error" in printed
    kept = [path for path in out.iterdir() if "took what" in (path / "why.txt").read_text()]
    assert 1 <= len(kept) <= harness.KEPT
    assert program.main(["--again", str(kept[0])]) == 1
    assert "took what it should not" in capsys.readouterr().out
    (kept[0] / "number").write_text("0")
    assert program.main(["--again", str(kept[0])]) == 0


def test_an_interrupted_run_tells_of_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting(Planted):
        def judge(self, files: dict[str, bytes]) -> str | None:
            raise KeyboardInterrupt

    monkeypatch.setattr(program, "quiet", lambda: None)
    monkeypatch.setattr(program, "TARGETS", {"planted": Interrupting})
    assert program.main(["--minutes", "1", "--out", str(tmp_path)]) == 130
    assert "planted                   1" in capsys.readouterr().out


def test_a_seed_makes_the_same_cases_and_another_one_others(tmp_path: Path) -> None:
    (target,) = make_targets(tmp_path, ["task"])
    cases = [target.case(case_rng(seed, "task", 4)) for seed in (1, 1, 2)]
    assert cases[0] == cases[1] != cases[2]


def test_mutators_change_structure_and_bytes() -> None:
    rng = Random(3)
    document = b'{"a":[1,2,{"b":"text"}],"c":0.5}'
    spoilt = {spoil_json(document, rng) for _ in range(200)}
    read = []
    for data in spoilt:
        try:
            read.append(json.loads(data))
        except (ValueError, RecursionError):
            continue
    assert len(spoilt) > 100
    assert any("c" not in value for value in read if isinstance(value, dict))
    assert any(b"[" * 1000 in data for data in {spoil_json(document, rng) for _ in range(500)})
    assert len({spoil_bytes(document, rng) for _ in range(200)}) > 100
    assert len({spoil_toml(b'name = "a"\nlist = [1]\n', rng) for _ in range(200)}) > 60
    tensors = release_files()["shared.safetensors"]
    headers = [spoil_tensors(tensors, rng) for _ in range(500)]
    assert sum(b'"F64"' in data for data in headers) > 0
    assert sum(data.count(b"\xff\xff\xff\xff") > 2 for data in headers) > 0
