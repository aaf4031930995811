"""A man page a command, with its options and examples, that man itself takes without a complaint."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest


@pytest.fixture(scope="module")
def man(script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("click_man")
    return script("docs/man_pages.py")


@pytest.fixture(scope="module")
def pages(man: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    written = man.write(tmp_path_factory.mktemp("man"))
    return {page.name: page.read_text() for page in written}


def test_every_command_has_a_page_with_its_options_and_examples(
    man: ModuleType, pages: dict[str, str]
) -> None:
    from typer.main import get_command

    for program, app in man.PROGRAMS.items():
        for words, command in man.commands(program, get_command(app)):
            page = pages[f"{words.replace(' ', '-')}.1"]
            plain = page.replace("\\-", "-").replace("\\(aq", "'")
            assert "..." not in plain.split(".SH SYNOPSIS")[0], words
            for option in command.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert option.opts[-1] in plain, words
            for example in (command.epilog or "").split("\n\n")[1:]:
                assert example.strip() in plain


def test_what_troff_would_read_is_escaped(man: ModuleType) -> None:
    shown = man.examples("Example:\n\n proper new-task --item '{a}\\n'")
    assert shown.splitlines()[-2] == "proper new\\-task \\-\\-item \\(aq{a}\\en\\(aq"


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man")
def test_man_shows_them(pages: dict[str, str], tmp_path: Path) -> None:
    for name in ("proper.1", "proper-adapt.1", "proper-sim-exp-drift.1"):
        (tmp_path / name).write_text(pages[name])
        done = subprocess.run(
            ["man", "--warnings", "-l", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "PAGER": "cat"},
        )
        if "has been minimized" in done.stdout + done.stderr:
            pytest.skip("this system's man is a stand-in")
        assert (done.returncode, done.stderr) == (0, "")
        assert "EXAMPLES" in done.stdout or name == "proper.1"
        if name == "proper-adapt.1":
            assert "[env var: PROPER_MAX_MEMORY]" in " ".join(done.stdout.split())


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="there is no mandoc")
def test_mandoc_finds_no_error(pages: dict[str, str], tmp_path: Path) -> None:
    for name, text in pages.items():
        page = tmp_path / name
        page.write_text(text)
        done = subprocess.run(["mandoc", "-Tlint", "-W", "error", str(page)], check=False)
        assert done.returncode == 0, name
