"""Build the wheel, install it alone into an empty environment, and run the demo from an empty folder.

Shows that an installation needs nothing of the checkout: profiles, tasks, templates, style sheets and pages are
in the wheel. A hook in the new environment lists every file of the checkout that one of its processes opens, and
one is a failure. Libraries are not installed again: the new environment is pointed at those of this one. Minutes
are saved by one epoch of everything; what is learned is of no matter here.

    python .ci/wheel_check.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
OPENED = "opened-in-the-checkout.txt"
# Started by every process of the environment, before any of its code.
HOOK = """
import os, sys

def watch(event, arguments, checkout={checkout!r}, kept={kept!r}, log={log!r}):
    if event != "open" or not isinstance(arguments[0], str):
        return
    path = os.path.realpath(arguments[0])
    if path.startswith(checkout) and not path.startswith(kept):
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (path + "\\n").encode())
        os.close(descriptor)

sys.addaudithook(watch)
"""
PROFILE = """
extends = "demo"
name = "wheel-check"
[population]
epochs = 1
[group]
epochs = 1
[router]
epochs = 1
[user]
epochs = 1
embedding_epochs = 1
"""
# What is read when a command asks for it: every profile and task, and the page of `proper serve`.
FILES = """
import client, coordinator, proper_model, simulations
from importlib.resources import files
from pathlib import Path
from proper_model.settings import load_profile
from proper_model.settings.shipped_profiles import profile_names
from proper_model.tasks import load_task, shipped_tasks
from proper_model.tasks.task import example_tasks
for package in (client, coordinator, proper_model, simulations):
    assert {site!r} in package.__file__, package.__file__
profiles = [load_profile(name).name for name in profile_names()]
tasks = [load_task(name).name for name in (*shipped_tasks(), *example_tasks())]
page = [file.name for file in files("client.serving").joinpath("page").iterdir()]
assert len(profiles) > 5 and len(tasks) > 8 and any(name.endswith(".css") for name in page)
print(len(profiles), "profiles,", len(tasks), "tasks,", len(page), "files of the page")
"""


def say(command: list[str], where: Path, **more: str) -> str:
    """Run a command without anything of this process's environment that could lead back here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=where,
        env={**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shown = " ".join([Path(command[0]).name, *command[1:]])
    if done.returncode:
        sys.exit(f"{done.stdout}\n{shown}: exit code {done.returncode}")
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel of this checkout."""
    say([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], CHECKOUT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, log: Path) -> tuple[Path, Path]:
    """A new environment with the wheel; its programs' folder and where packages lie."""
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
    quiet = ["--no-deps", "--no-index", "--disable-pip-version-check", "--no-compile"]
    say([*pip, "install", "--quiet", *quiet, str(wheel)], folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if Path(path).name == "site-packages"]
    hook = HOOK.format(checkout=f"{CHECKOUT}/", kept=f"{CHECKOUT}/.venv/", log=str(log))
    (site / "wheel_check_hook.py").write_text(hook)
    # A folder that such a file names is searched; what is editable there is not followed.
    (site / "libraries.pth").write_text("\n".join(["import wheel_check_hook", *libraries]) + "\n")
    return programs, site


def check(scratch: Path) -> None:
    """Everything, below `scratch`. Ends the program at the first thing that is wrong."""
    log, work = scratch / OPENED, scratch / "empty"
    work.mkdir()
    programs, site = install(build(scratch / "wheel"), scratch / "environment", log)
    python, home = str(programs / "python"), {"HOME": str(scratch / "home")}
    print(say([python, "-c", FILES.format(site=str(site))], work, **home), end="")
    print(say([str(programs / "proper"), "--version"], work, **home), end="")
    assert "Usage" in say([str(programs / "proper-coordinator"), "--help"], work, **home)
    profile = work / "wheel-check.toml"
    profile.write_text(PROFILE)
    small = ["--pooled-users", "8", "--users", "2", "--max-items", "6", "--actors", "1"]
    run = ["run", "demo", "--out", "demo", "--profile", str(profile), *small, "--threads", "1"]
    print(say([str(programs / "proper-sim"), *run], work, **home))
    for left in ("results.json", "report.html"):
        assert (work / "demo" / left).stat().st_size > 0, left
    if log.exists():
        names = sorted(set(log.read_text().splitlines()))
        sys.exit("\n".join(["an installed wheel opened files of the checkout:", *names]))
    # The hook sees what is opened: the control.
    say([python, "-c", f"open({str(CHECKOUT / 'pyproject.toml')!r}).close()"], work, **home)
    assert log.read_text() == f"{CHECKOUT / 'pyproject.toml'}\n"
    print("the wheel needs nothing of the checkout")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="proper-wheel-") as made:
        check(Path(made).resolve())
