"""README and docs say nothing that is not so: commands, sections, folders, numbers, code.

Links and paths are the business of tests/test_docs.py.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import click
import pytest
from test_results import example
from typer.main import get_command

from simulations import api
from simulations.cli import next_command
from simulations.outcome.results import Results, write_document
from simulations.setup.options import RunOptions

FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)")
INDENTED = re.compile(r"(?<=\n\n)(?:(?: {4,}.*)?\n)+")
NUMBERED = re.compile(r"^#{2,6} (?P<number>\d+(?:\.\d+)*)\.? ", re.MULTILINE)
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.-]+)/ {2,}\S")
PACKAGES = ("proper_model", "coordinator", "client", "simulations")
# `docs/vault-format.md section 5`, `docs/bundle-format.md, sections 6.5 to 6.8`
CITED = re.compile(
    r"docs/(?P<page>[\w/-]+\.md)(?P<sections>,? sections? \d+(?:\.\d+)*"
    r"(?:(?:,| and| to) \d+(?:\.\d+)*)*)?"
)
# Tests with citations that are wrong on purpose.
PLANTED = {"test_readme.py", "test_docs.py"}
# Pages with the paper's settings and with targets, which no run of ours gives.
WITHOUT_RESULTS = {"method.md", "performance.md"}
# A cell of a table that is a number with a point: `.646`, `0.370 [0.309, 0.432]`; no "3.10 and older".
RESULT = re.compile(r"^\|(?:.*\|)?\s*[-+\u2212]?\d*\.\d+\s*[|(\[%\u2013±]")


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def pages(repository: Path) -> dict[Path, str]:
    """Everything that people read: path -> text."""
    found = [repository / "README.md", repository / "SECURITY.md"]
    found += sorted((repository / "docs").rglob("*.md"))
    return {path: path.read_text() for path in found}


@pytest.fixture(scope="module")
def generated(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("docs/generated.py")


def fenced(text: str, language: str) -> list[str]:
    return [m["body"] for m in FENCE.finditer(text) if m["language"] == language]


def inline(text: str) -> list[str]:
    """What stands between single backticks, white space collapsed."""
    return [" ".join(m["code"].split()) for m in INLINE.finditer(FENCE.sub("", text))]


def commands(text: str, program: str) -> list[list[str]]:
    """Words of every command line that starts with `program`: in bash blocks, in indented blocks
    and between backticks; comments off, lines that go on joined.
    """
    shown = [*fenced(text, "bash"), *INDENTED.findall(FENCE.sub("", text))]
    lines = [line for body in shown for line in body.replace("\\\n", " ").splitlines()]
    words = [line.split("#")[0].split() for line in (*lines, *inline(text))]
    return [w for w in words if w and w[0] == program]


def unknown_make_targets(text: str, makefile: str) -> list[str]:
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    asked = {w[1] for w in commands(text, "make") if len(w) > 1}
    return sorted(name for name in asked - targets if re.fullmatch(r"[a-z-]+", name))


@functools.cache
def programs() -> dict[str, click.Command]:
    """Our programs by name, each built once."""
    from client.cli import app as proper
    from coordinator.cli import app as coordinator
    from simulations.cli import app as simulator

    apps = {"proper": proper, "proper-coordinator": coordinator, "proper-sim": simulator}
    return {name: get_command(app) for name, app in apps.items()}


def unknown_words(text: str) -> list[str]:
    """Subcommands and options in command lines of our programs that these do not have."""
    return [
        word
        for name, program in programs().items()
        for words in commands(text, name)
        if words[-1] != "1"  # a domain of signatures or keys, such as `proper trusted root 1`
        for word in _unknown(program, words)
    ]


def _unknown(command: click.Command, words: list[str]) -> Iterator[str]:
    at, value_follows = words[0], False
    for word in words[1:]:
        if word.startswith(("…", "...")):  # words that are left out: `proper-sim … --task`
            return
        if value_follows:
            value_follows = False
        elif word.startswith("-"):
            name, _, value = word.partition("=")
            options = [p for p in command.params if name in (*p.opts, *p.secondary_opts)]
            if not options and name not in ("-", "-h", "--help"):
                yield f"{at} {name}"
            value_follows = any(not getattr(p, "is_flag", False) for p in options) and not value
        elif isinstance(command, click.Group):
            if word not in command.commands:
                yield f"{at} {word}"
                return
            command, at = command.commands[word], f"{at} {word}"


def unknown_modules(text: str) -> list[str]:
    """Modules of ours in lines `python -m NAME` that do not exist."""
    names = {w[2] for w in commands(text, "python") if w[1:2] == ["-m"] and len(w) > 2}
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


def missing_sections(text: str, docs: Path) -> list[str]:
    """Pages of docs/ that code or a page cites and that do not exist, or lack the section."""
    found = []
    joined = re.sub(r"\s*\n\s*(?:# )?", " ", text)
    for match in CITED.finditer(joined):
        page = docs / match["page"]
        if not page.is_file():
            found.append(match["page"])
        elif match["sections"]:
            there = {m["number"] for m in NUMBERED.finditer(page.read_text())}
            asked = re.findall(r"\d+(?:\.\d+)*", match["sections"])
            found += [f"{match['page']}: {number}" for number in asked if number not in there]
    return found


def listed_folders(readme: str) -> set[str]:
    """The folders of the tree under \u201cWhat is where\u201d."""
    found, parent = set(), ""
    (tree,) = fenced(readme.partition("## What is where")[2], "text")
    for line in tree.splitlines():
        match = TREE_LINE.match(line)
        assert match, f"not a folder and what it is: {line!r}"
        parent = parent if match["indent"] else match["name"]
        found.add(f"{parent}/{match['name']}" if match["indent"] else parent)
    return found


def folders(root: Path) -> set[str]:
    """The folders of the repository, and of the four packages those that hold modules."""
    ignored = [line.strip("/") for line in (root / ".gitignore").read_text().splitlines()]
    top = {
        path.name
        for path in root.iterdir()
        if path.is_dir()
        and (path.name == ".ci" or not path.name.startswith("."))
        and not any(fnmatch(path.name, pattern) for pattern in ignored)
    }
    rooms = {
        f"{package}/{path.parent.name}"
        for package in PACKAGES
        for path in (root / package).glob("*/__init__.py")
    }
    return top | rooms


def number_tables_outside_blocks(text: str, generated: ModuleType) -> list[str]:
    """Table rows with a cell that begins with a decimal fraction and that no command printed."""
    rest = generated.BLOCK.sub("", text)
    return [line for line in rest.splitlines() if RESULT.search(line)]


def test_the_two_commands_stand_first(readme: str) -> None:
    first = fenced(readme, "bash")[0]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]


def test_make_targets_exist(repository: Path, pages: dict[Path, str]) -> None:
    makefile = (repository / "Makefile").read_text()
    for path, text in pages.items():
        assert unknown_make_targets(text, makefile) == [], path.name
    planted = "```bash\nmake coffee\n```\nand `make tea CUPS=2`, never `make`"
    assert unknown_make_targets(planted, makefile) == ["coffee", "tea"]


def test_commands_and_options_exist(pages: dict[Path, str]) -> None:
    for path, text in pages.items():
        assert unknown_words(text) == [], path.name
    everything = "\n".join(pages.values())
    asked = {program: commands(everything, program) for program in ("proper", "proper-sim")}
    assert {words[1] for words in asked["proper"] if len(words) > 1} >= {"adapt", "bundle", "serve"}
    assert {words[1] for words in asked["proper-sim"] if len(words) > 1} >= {
        "run",
        "prepare",
        "exp",
    }
    planted = (
        "```bash\nproper-sim brew\nproper-sim run x \\\n  --sugar 2\n```\n"
        "\nso:\n\n    proper --home adapt bundle pour\n\nor `proper adapt\nFILE --milk` and `proper`\n"
    )
    assert unknown_words(planted) == [
        "proper bundle pour",
        "proper adapt --milk",
        "proper-sim brew",
        "proper-sim run --sugar",
    ]


def test_modules_that_are_run_exist(pages: dict[Path, str]) -> None:
    assert unknown_modules("\n".join(pages.values())) == []
    assert unknown_modules("`python -m nothing_like_it --out x`") == ["nothing_like_it"]


def test_the_lines_after_prepare_are_those_that_it_prints(pages: dict[Path, str]) -> None:
    bodies = [body for text in pages.values() for body in fenced(text, "bash")]
    (block,) = (body for body in bodies if "proper-sim prepare" in body)
    out = Path("runs/news")
    assert block.splitlines()[1:] == [
        next_command("launch", out),
        next_command("score", out),
    ]


def test_sections_that_are_cited_exist(
    repository: Path, pages: dict[Path, str], tmp_path: Path
) -> None:
    docs = repository / "docs"
    code = [
        p for name in (*PACKAGES, "benchmarks", "tests") for p in (repository / name).rglob("*.py")
    ]
    code += [
        p for name in ("profiles", "proper_model") for p in (repository / name).rglob("*.toml")
    ]
    texts = {path: path.read_text() for path in code if path.name not in PLANTED} | pages
    missing = {path.name: missing_sections(text, docs) for path, text in texts.items()}
    assert {name: found for name, found in missing.items() if found} == {}
    (tmp_path / "page.md").write_text("# Page\n## 2. Two\n### 2.1 Sub\n")
    planted = "# docs/page.md section 2 and 2.1, docs/page.md,\n# sections 2.1 to 2.3; docs/page.md\n# section 4"
    assert missing_sections(planted, tmp_path) == ["page.md: 2.3", "page.md: 4"]
    assert missing_sections("see docs/gone.md", tmp_path) == ["gone.md"]


def test_the_tree_lists_the_folders_that_there_are(
    repository: Path, readme: str, tmp_path: Path
) -> None:
    assert listed_folders(readme) == folders(repository)
    planted = "## What is where\n```text\nclient/     the device\n  vault/    keys\n```"
    assert listed_folders(planted) == {"client", "client/vault"}
    for name in ("client/vault", "client/page", "runs/demo", "docs", ".git", "x.egg-info", "bases"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "client/vault/__init__.py").touch()
    (tmp_path / ".gitignore").write_text("runs/\n*.egg-info/\n/bases/\n")
    assert folders(tmp_path) == {"client", "client/vault", "docs"}


def test_numbers_come_from_results(pages: dict[Path, str], generated: ModuleType) -> None:
    """Those of docs/experiments.md are tests/test_experiments.py's."""
    shown = [block for text in pages.values() for block in generated.blocks(text)]
    printed = [(command, body) for command, body in shown if "proper-sim exp" not in command]
    assert len(printed) >= 5
    fresh = generated.produce([command for command, _ in printed])
    for (command, body), now in zip(printed, fresh, strict=True):
        assert body == now, f"stale, run `make docs`: {command}"


def test_a_block_is_replaced_by_what_its_command_prints(
    generated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "produce", lambda asked: [f"output of {one}\n" for one in asked])
    page = "a\n<!-- generated: x --markdown -->\nold\n<!-- /generated -->\nb"
    new = generated.regenerate(page)
    assert new == (
        "a\n<!-- generated: x --markdown -->\noutput of x --markdown\n<!-- /generated -->\nb"
    )
    assert generated.regenerate(new) == new


def test_what_is_printed_for_a_terminal_is_fenced(generated: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_document(Results.model_validate(example()), path)
    (printed,) = generated.produce([f"proper-sim table {path}"])
    assert printed.startswith("```text\n")
    assert printed.endswith("\n```\n")
    assert " 0.5" in printed


def test_no_table_of_numbers_is_typed_by_hand(
    pages: dict[Path, str], generated: ModuleType
) -> None:
    for path, text in pages.items():
        if path.name not in WITHOUT_RESULTS:
            assert number_tables_outside_blocks(text, generated) == [], path.name
    for row in ("| stage3 | .646 |", "| 12.5 | x |", "| x | \u22120.3 (0.1) |"):
        assert number_tables_outside_blocks(row, generated) == [row]
    assert number_tables_outside_blocks("| Python | 3.10 and older |", generated) == []


def test_blocks_run_nothing_else(generated: ModuleType) -> None:
    with pytest.raises(ValueError, match="only run"):
        generated.produce(["rm -rf x"])
    with pytest.raises(ValueError, match="no file matches"):
        generated.produce(["proper-sim table results/nothing-like-it-*.json"])
    with pytest.raises(ValueError, match="failed.*nothing-like-it"):
        generated.produce(["proper-sim table results/nothing-like-it.json"])


def test_the_python_example_runs(
    pages: dict[Path, str],
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
    (body,) = (body for text in pages.values() for body in fenced(text, "python"))
    exec(compile(body, "simulations.md", "exec"), {})
    assert [options.data for options in asked] == ["demo"]
    printed = capsys.readouterr().out
    assert "two minutes" in printed
    assert f"{found.arms['stage3'].metrics['accuracy'].mean} instead of" in printed


@pytest.mark.full
def test_the_python_example_runs_for_real(
    pages: dict[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (body,) = (body for text in pages.values() for body in fenced(text, "python"))
    exec(compile(body, "simulations.md", "exec"), {})
    assert (tmp_path / "runs/notebook/report.html").is_file()
