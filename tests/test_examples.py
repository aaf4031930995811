"""The notebooks of examples/: they parse, name only what there is, hold no output, and run.

Running them takes minutes, so that `make test` looks at them and `make test-full` runs them.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
from typer.main import get_command

from client.cli import app as proper

NOTEBOOKS = ("one_person.ipynb", "simulation.ipynb")
SHELL = "%%bash\n"


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def cells(notebook: nbformat.NotebookNode, *, shell: bool) -> list[str]:
    """Code cells of Python or, without their first line, of a shell."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [
        cell.removeprefix(SHELL) if shell else cell
        for cell in code
        if cell.startswith(SHELL) == shell
    ]


def missing_imports(source: str) -> list[str]:
    """Modules and names that a cell imports and that are not there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            importlib.import_module(name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            found += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if not hasattr(module, alias.name)
            ]
    return found


def unknown_words(source: str) -> list[str]:
    """Commands and options of `proper` in a shell cell that the program has not."""
    commands = get_command(proper).commands  # type: ignore[attr-defined]
    found = []
    for line in re.findall(r"\bproper ([^|)\n]+)", source):
        words = line.split()
        command = commands.get(words[0])
        if command is None:
            found.append(words[0])
            continue
        while getattr(command, "commands", None) and len(words) > 1:
            words = words[1:]
            command = command.commands[words[0]]
        known = {name for option in command.params for name in option.opts}
        found += [word for word in words if word.startswith("--") and word not in known]
    return found


def test_these_are_the_notebooks(repository: Path) -> None:
    found = (repository / "examples").glob("*.ipynb")
    assert sorted(path.name for path in found) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_no_output_and_names_what_there_is(repository: Path, name: str) -> None:
    notebook = read(repository / "examples" / name)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)
    python, shell = cells(notebook, shell=False), cells(notebook, shell=True)
    assert python
    assert [missing for source in python for missing in missing_imports(source)] == []
    assert [word for source in shell for word in unknown_words(source)] == []


def test_what_is_not_there_is_found() -> None:
    assert missing_imports("import json\nfrom json import dumps, nothing") == ["json.nothing"]
    with pytest.raises(ModuleNotFoundError):
        missing_imports("from simulations.gone import x")
    assert unknown_words('proper lose\nx=$(proper generate --stage 1 "$Q")\n') == ["lose"]
    assert unknown_words("proper bundle list\nproper adapt x --gone 1 | sed p") == ["--gone"]


@pytest.mark.full
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(
    repository: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder; figures are shown, errors end it."""
    from nbclient import NotebookClient

    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = read(repository / "examples" / name)
    NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    said = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    figures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    if name == "one_person.ipynb":
        assert "stage 1: " in said
        assert "stage 3: " in said
    else:
        assert len(figures) == 2
        assert "the whole report: report.html True" in said
    assert list(tmp_path.iterdir()) == []  # they clean up
