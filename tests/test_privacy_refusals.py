"""`proper-sim privacy`: what cannot be is refused before a base is made or anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proper_model.errors import ConfigError, DataError
from simulations.cli import run_cli
from simulations.synthetic import tiny_base

USAGE = 2
EPSILON = ["epsilon", "demo", "--epsilons", "inf"]
EVERY = ["membership demo", "epsilon demo --epsilons inf", "deletion", "poisoning", "canaries"]
EVERY += ["backdoor", "linkage", "inversion"]


@pytest.fixture(autouse=True)
def no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes as far as a base was refused too late: exit code 1."""

    def late(*_: Any, **__: Any) -> None:
        raise AssertionError("a base is made")

    monkeypatch.setattr(tiny_base, "make_tiny_base", late)


@pytest.mark.parametrize("words", EVERY)
@pytest.mark.parametrize("below", ["", "part"])
def test_an_out_that_is_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, below: str
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    out = file / below if below else file
    assert run_cli(["privacy", *words.split(), "--out", str(out)]) == ConfigError.exit_code
    assert "is a file, expected a folder" in capsys.readouterr().err
    free = ["--out", str(tmp_path / "out"), "--cache", str(out)]
    assert run_cli(["privacy", *words.split(), *free]) == ConfigError.exit_code
    assert file.read_text() == "mine" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["membership", "demo", "--things", "embeddings", "--level", "record"],
            ConfigError.exit_code,
            "embeddings: --level must name person or fresh",
        ),
        (
            ["membership", "demo", "--things", "router-cohort", "--preset", "device"],
            ConfigError.exit_code,
            "has no W_l",
        ),
        (
            ["membership", "demo", "--things", "inferred", "--preset", "default"],
            ConfigError.exit_code,
            "infers no embeddings",
        ),
        (
            ["membership", "demo", "--things", "common-start", "--people", "24"],
            ConfigError.exit_code,
            "start_rounds is 0",
        ),
        (["membership", "demo", "--shadows", "3"], ConfigError.exit_code, "3 shadows"),
        (["membership", "demo", "--people", "4"], USAGE, "--people"),
        (["membership", "demo", "--people", "-4"], USAGE, "--people"),
        (["deletion", "--people", "-4"], USAGE, "--people"),
        (["canaries", "--people", "-4"], USAGE, "--people"),
        (["backdoor", "--people", "-4"], USAGE, "--people"),
        (["poisoning", "--people", "-4"], USAGE, "--people"),
        (["linkage", "--people", "-3"], USAGE, "--people"),
        (["inversion", "--people", "-3"], USAGE, "--people"),
        (["linkage", "--people", "7"], ConfigError.exit_code, "--people 6 or 9"),
        (["poisoning", "--malicious", "60"], ConfigError.exit_code, "60 malicious of 50"),
        (["poisoning", "--people", "50"], DataError.exit_code, "fewer --pooled"),
        (
            [*EPSILON, "--people", "20", "--newcomers", "4"],
            ConfigError.exit_code,
            "at least 10 must",
        ),
        ([*EPSILON, "--delta", "0.5"], ConfigError.exit_code, "fewer --canaries"),
    ],
)
def test_options_that_contradict_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    out = tmp_path / "out"
    assert run_cli(["privacy", *words, "--out", str(out)]) == code
    heard = capsys.readouterr().err
    assert said in heard
    assert not out.exists()


@pytest.mark.parametrize("data", ["nosuchfolder", "demo:foo"])
@pytest.mark.parametrize("command", ["membership", "epsilon", "deletion", "poisoning", "canaries"])
def test_people_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, data: str
) -> None:
    words = ["privacy", command, data, "--out", str(tmp_path / "out")]
    words += ["--epsilons", "inf"] if command == "epsilon" else []
    assert run_cli(words) == DataError.exit_code
    heard = capsys.readouterr().err
    assert f"{data}: no such" in heard and "demo, demo:rate, demo:tag, demo:text" in heard


@pytest.mark.parametrize("command", ["deletion", "poisoning"])
def test_help_says_which_people_are_taken(
    capsys: pytest.CaptureFixture[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_cli(["privacy", command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "default: demo]" in said and "demo:tag" in said
