"""The README says nothing that is not so: commands, links, tree, numbers, code."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from test_results import example

from simulations import api
from simulations.outcome.results import Results, write_results
from simulations.setup import next_commands
from simulations.setup.options import RunOptions

FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w./-]+) {2,}\S")


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def generated(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", repository / "docs/generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fenced(text: str, language: str) -> list[str]:
    return [m["body"] for m in FENCE.finditer(text) if m["language"] == language]


def commands(text: str, program: str) -> list[list[str]]:
    """Words of every command line in bash blocks that starts with `program`, comments off."""
    lines = [line for body in fenced(text, "bash") for line in body.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [w for w in words if w and w[0] == program]


def unknown_make_targets(text: str, makefile: str) -> list[str]:
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    inline = re.findall(r"`make\s+([a-z-]+)`", text)
    return sorted(({w[1] for w in commands(text, "make")} | set(inline)) - targets)


def unknown_options(text: str) -> list[str]:
    """Subcommands and options in the text's `proper-sim` lines that the program does not have."""
    from typer.main import get_command

    from simulations.cli import app

    subcommands = get_command(app).commands  # type: ignore[attr-defined]
    found = []
    for _, name, *arguments in commands(text, "proper-sim"):
        if name not in subcommands:
            found.append(name)
            continue
        known = {option for p in subcommands[name].params for option in p.opts + p.secondary_opts}
        found += [
            f"{name} {word}" for word in arguments if word.startswith("-") and word not in known
        ]
    return found


def broken_links(path: Path) -> list[str]:
    targets = [m["target"].split("#")[0] for m in LINK.finditer(path.read_text())]
    return [
        f"{path.name}: {target}"
        for target in targets
        if target and "://" not in target and not (path.parent / target).exists()
    ]


def missing_from_tree(text: str, root: Path) -> list[str]:
    """Entries of the annotated tree that do not exist."""
    found, parent = [], Path()
    for line in fenced(text, "text")[-1].splitlines():
        match = TREE_LINE.match(line)
        assert match, f"not a line of the tree: {line!r}"
        if not match["indent"]:
            parent = Path(match["name"])
        path = parent / match["name"] if match["indent"] else parent
        if not (root / path).exists():
            found.append(path.as_posix())
    return found


def number_tables_outside_blocks(text: str, generated: ModuleType) -> list[str]:
    """Table rows with a decimal fraction that no command printed."""
    rest = generated.BLOCK.sub("", text)
    return [
        line for line in rest.splitlines() if line.startswith("|") and re.search(r"\d?\.\d", line)
    ]


def test_the_two_commands_stand_first(readme: str) -> None:
    first = fenced(readme, "bash")[0]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]


def test_make_targets_exist(repository: Path, readme: str) -> None:
    makefile = (repository / "Makefile").read_text()
    assert unknown_make_targets(readme, makefile) == []
    assert unknown_make_targets("```bash\nmake coffee\n```", makefile) == ["coffee"]


def test_proper_sim_commands_exist(readme: str) -> None:
    assert len(commands(readme, "proper-sim")) >= 5
    assert unknown_options(readme) == []
    planted = "```bash\nproper-sim brew\nproper-sim run x --sugar 2\n```"
    assert unknown_options(planted) == ["brew", "run --sugar"]


def test_the_lines_after_prepare_are_those_that_it_prints(readme: str) -> None:
    (block,) = (body for body in fenced(readme, "bash") if "proper-sim prepare" in body)
    out = Path("runs/news")
    assert block.splitlines()[1:] == [
        next_commands.launch_command(out),
        next_commands.score_command(out),
    ]


def test_relative_links_resolve(repository: Path, tmp_path: Path) -> None:
    pages = [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]
    assert [link for page in pages for link in broken_links(page)] == []
    page = tmp_path / "page.md"
    page.write_text("[gone](gone.md) [web](https://example.org) [top](#top)")
    assert broken_links(page) == ["page.md: gone.md"]


def test_the_tree_exists(repository: Path, readme: str, tmp_path: Path) -> None:
    assert missing_from_tree(readme, repository) == []
    planted = "```text\nclient/     the device\n  nothing.py  not there\n```"
    assert missing_from_tree(planted, repository) == ["client/nothing.py"]


def test_numbers_come_from_results(readme: str, generated: ModuleType) -> None:
    assert len(generated.blocks(readme)) >= 2
    for command, body in generated.blocks(readme):
        assert body == generated.produce(command), f"stale, run `make docs`: {command}"


def test_a_block_is_replaced_by_what_its_command_prints(
    generated: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "some.json"
    write_results(Results.model_validate(example()), path)
    page = f"a\n<!-- generated: proper-sim table {path} --markdown -->\nold\n<!-- /generated -->\nb"
    new = generated.regenerate(page)
    assert new.startswith("a\n<!-- generated: ")
    assert new.endswith("<!-- /generated -->\nb")
    assert "old" not in new
    assert "| 0.5" in new
    assert generated.regenerate(new) == new
    assert "```text\n" in generated.produce(f"proper-sim table {path}")


def test_no_table_of_numbers_is_typed_by_hand(readme: str, generated: ModuleType) -> None:
    assert number_tables_outside_blocks(readme, generated) == []
    assert number_tables_outside_blocks("| stage3 | .646 |", generated) == ["| stage3 | .646 |"]


def test_blocks_run_nothing_else(generated: ModuleType) -> None:
    with pytest.raises(ValueError, match="only run"):
        generated.produce("rm -rf x")
    with pytest.raises(ValueError, match="no file matches"):
        generated.produce("proper-sim table results/nothing-like-it-*.json")


def test_the_python_example_runs(
    readme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every line as it stands, with the minutes of computing replaced by finished results."""
    found = Results.model_validate(example())
    asked = []

    def execute(options: RunOptions, *_args: object, **_kwargs: object) -> Results:
        asked.append(options)
        return found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "execute", execute)
    monkeypatch.setattr(api.Run, "estimate", lambda _self: "two minutes")
    (body,) = fenced(readme, "python")
    exec(compile(body, "README.md", "exec"), {})
    assert [options.data for options in asked] == ["demo"]
    printed = capsys.readouterr().out
    assert "two minutes" in printed
    assert f"{found.arms['stage3'].metrics['accuracy'].mean} instead of" in printed


@pytest.mark.full
def test_the_python_example_runs_for_real(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (body,) = fenced(readme, "python")
    exec(compile(body, "README.md", "exec"), {})
    assert (tmp_path / "runs/notebook/report.html").is_file()
