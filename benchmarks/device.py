"""`python -m benchmarks.device`: what `proper adapt` takes for one person on this machine.

A release is trained on a few pooled users, signed and installed, and one person's newest items are
adapted in a process of its own for every way to hold the base: wall-clock seconds and the peak of
the whole process. Beside it the memory model's figures for larger bases.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import ready_file, start, where
from benchmarks.results import write_report
from benchmarks.results.schema import Adaptation, DeviceReport, Predicted
from client.terminal.console import print_line, say
from proper_model.errors import DataError, ProperError
from proper_model.federation.machine import high_water_bytes
from proper_model.tasks.records import User, user_to_json
from simulations.outcome.environment import commit

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

WAYS = (("full", False), ("full", True), ("8bit", False), ("4bit", False), ("4bit", True))
POOLED, POOLED_ITEMS = 16, 12  # what the release is trained on; its quality is not the question
SAMPLE_TOKENS = 256
POLL_S = 0.05
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "news_categories"
BASE = DATA.parent.parent / "models" / "mini-llama"


class AdaptError(ProperError):
    """A run of `proper adapt` failed."""


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    data: Annotated[Path, typer.Option(help="Folder with OPPU's files.")] = DATA,
    task: Annotated[str, typer.Option(help="Their task.")] = "profiles/tasks/news_categories.toml",
    base: Annotated[Path, typer.Option(help="Base model, a folder.")] = BASE,
    items: Annotated[int, typer.Option(min=1, help="Items of the person.")] = 100,
    preset: Annotated[str, typer.Option()] = "device",
    profile: Annotated[str, typer.Option()] = "tiny",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of every process.")] = 2,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Measure and write OUT."""
    ready_file(out)
    with tempfile.TemporaryDirectory(prefix="proper-device-") as scratch:
        folder = Path(scratch)
        history = make_person(folder, data, task, str(base), items, preset, profile, seed)
        runs: dict[tuple[str, bool], list[tuple[float, int]]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in WAYS:
                runs[way].append(adapt_once(folder, history, *way, threads=threads))
                seconds, peak = runs[way][-1]
                weights, recompute = way
                say(
                    f"round {number + 1}: {weights}, recompute {recompute}: {seconds:.0f} s, "
                    f"{peak / 2**20:.0f} MiB"
                )
    report = DeviceReport(
        **where(seed),
        commit=commit(),
        data=data.name,
        items=items,
        preset=preset,
        profile=profile,
        threads=threads,
        adaptations=[
            Adaptation(
                base_weights=weights,
                recompute=recompute,
                max_memory_bytes=None,
                seconds=[seconds for seconds, _ in found],
                peak_bytes=[peak for _, peak in found],
            )
            for (weights, recompute), found in runs.items()
        ],
        sample_tokens=SAMPLE_TOKENS,
        predicted=predicted(preset, profile),
    )
    write_report(report, out)
    print_line(str(out))


def predicted(preset_name: str, profile: str) -> list[Predicted]:
    """The memory model's figures for all public shapes."""
    from benchmarks.measuring.device_shapes import SHAPES, predict
    from proper_model.settings.presets import preset
    from proper_model.settings.shipped_profiles import load_profile

    found = []
    for shape in SHAPES:
        say(f"memory model: {shape}")
        settings = load_profile(profile)
        found += predict(shape, preset(preset_name), settings, sample_tokens=SAMPLE_TOKENS)
    return found


def make_person(
    folder: Path,
    data: Path,
    task_name: str,
    base: str,
    items: int,
    preset_name: str,
    profile: str,
    seed: int,
) -> Path:
    """A home with an installed release, and the history file of the first person who is long enough."""
    from client.home import Home
    from client.releases.add import add_bundle
    from coordinator.keys import load_or_create_key
    from coordinator.pooled_stages import run_pooled_stages
    from coordinator.publish import publish
    from proper_model.bundle.trusted_root import TrustedRoot
    from proper_model.data.users import read_population
    from proper_model.release.contents import release_to_files
    from proper_model.settings.presets import preset
    from proper_model.settings.shipped_profiles import load_profile
    from proper_model.tasks.task import load_task

    settings = load_profile(profile)
    task = load_task(task_name, template=settings.template)
    people = read_population(data, task)
    long = [user for user in people.test if len(user.history) >= items]
    if not long:
        raise DataError(f"{data.name}: no test user has {items} items", hint="give fewer --items")
    pooled = [
        dataclasses.replace(user, history=user.history[-POOLED_ITEMS:])
        for user in people.pooled[:POOLED]
    ]
    release = run_pooled_stages(
        pooled, task, base, preset(preset_name), settings, seed=seed, cache=folder / "cache"
    )
    key = load_or_create_key(folder / "key.pem")
    publish(
        release_to_files(release),
        folder / "release",
        [key],
        created=datetime.now(UTC),
        valid_for_days=7,
    )
    (folder / "root.json").write_bytes(TrustedRoot.of([key]).to_bytes())
    add_bundle(Home(folder / "home"), str(folder / "release"), root=folder / "root.json")
    history = folder / "history.json"
    person = User(long[0].user_id, long[0].history[-items:], ())
    history.write_text(json.dumps(user_to_json(person)))
    passphrase = folder / "passphrase"
    passphrase.write_text("benchmark\n")
    passphrase.chmod(0o600)
    return history


def adapt_once(
    folder: Path, history: Path, weights: str, recompute: bool, *, threads: int
) -> tuple[float, int]:
    """Seconds and peak bytes of one `proper adapt` in a process of its own.

    Raises AdaptError if it fails.
    """
    command = [
        *(sys.executable, "-m", "client"),
        *("--home", str(folder / "home"), "--passphrase-file", str(folder / "passphrase")),
        *("adapt", str(history), "--base-weights", weights),
        *(["--recompute"] if recompute else []),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.monotonic()
    peak = 0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            # Not getrusage: that counts what this process held when it started the other one.
            peak = max(peak, high_water_bytes(Path(f"/proc/{process.pid}/status")) or 0)
            time.sleep(POLL_S)
    if process.returncode:
        raise AdaptError(
            f"proper adapt --base-weights {weights} ended with exit code {process.returncode}",
            hint="run it by hand to see why",
        )
    return time.monotonic() - begin, peak


if __name__ == "__main__":
    start(app)
