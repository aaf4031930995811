"""`python -m benchmarks.device`: what `proper adapt` takes for one person on this machine.

A release is trained on a few pooled users, signed and installed, and one person's newest items are
adapted in a process of its own for every way to hold the base: wall-clock seconds and the peak of
the whole process. Beside it the memory model's figures for larger bases.

Then one person from start to end, over that release and over a release of one's own of a language
model: the parts of `proper adapt`, and how long a first token takes.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import mark_of, ready_file, start, where
from benchmarks.measuring.first_tokens import generate_once, program, run_program, serve_seconds
from benchmarks.results import write_report
from benchmarks.results.schema import Adaptation, DeviceReport, Part, PersonRun, Predicted
from client.terminal.console import print_line, say
from proper_model.data.users import read_population
from proper_model.errors import DataError
from proper_model.settings.presets import preset
from proper_model.settings.shipped_profiles import load_profile
from proper_model.storage.files import storage_errors
from proper_model.tasks.records import User, user_to_json
from proper_model.tasks.task import Task, load_task
from simulations.outcome.environment import commit

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

WAYS = (("full", False), ("full", True), ("8bit", False), ("4bit", False), ("4bit", True))
PRESET, PROFILE, ITEMS = "device", "tiny", 100
POOLED, POOLED_ITEMS = 16, 12  # what the release is trained on; its quality is not the question
SAMPLE_TOKENS = 256
# Of the person over a language model; so many words of each question, so that an item has some sixty tokens, of which
# the base's chat template makes thirty.
LANGUAGE_ITEMS, LANGUAGE_WORDS = 60, 6
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
DATA, BASE = SHARED / "data" / "news_categories", SHARED / "models" / "mini-llama"
LANGUAGE_DATA = SHARED / "data" / "news_headlines"
LANGUAGE_BASE = ROOT / "bases" / "SmolLM2-135M-Instruct"


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of every process.")] = 2,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Measure and write OUT, again after every round and person."""
    ready_file(out, mark_of("device"))
    with scratch_folder() as folder:
        person = language_person()
        history = make_person(folder, seed)
        facts = where(seed) | {
            "commit": commit(),
            "data": DATA.name,
            "items": ITEMS,
            "preset": PRESET,
            "profile": PROFILE,
            "threads": threads,
            "sample_tokens": SAMPLE_TOKENS,
            "predicted": predicted(),
        }
        runs: dict[tuple[str, bool], list[tuple[float, int]]] = {way: [] for way in WAYS}
        persons: list[PersonRun] = []

        def write() -> None:
            # What is stopped keeps what it has.
            found = adaptations(runs)
            write_report(DeviceReport(**facts, adaptations=found, persons=persons), out)

        for number in range(rounds):
            for way in WAYS:
                runs[way].append(adapt_once(folder, history, *way, threads=threads))
                say(f"round {number + 1}: {in_words(*way, *runs[way][-1])}")
            write()
        persons.append(person_run(folder, history, BASE.name, DATA.name, threads))
        write()
        if person is not None:
            persons.append(language_run(folder / "language", person, threads))
            write()
    print_line(str(out))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for homes and histories that goes afterwards. Raises StorageError where it takes no more."""
    with (
        tempfile.TemporaryDirectory(prefix="proper-device-") as scratch,
        storage_errors(Path(scratch)),
    ):
        yield Path(scratch)


def in_words(weights: str, recompute: bool, seconds: float, peak_bytes: int) -> str:
    """One adaptation: how the base was held, and what it took."""
    how = f"base weights {weights}{', recomputing' * recompute}"
    return f"{how}: {seconds:.0f} s, {peak_bytes / 2**20:.0f} MiB"


def adaptations(runs: Mapping[tuple[str, bool], Sequence[tuple[float, int]]]) -> list[Adaptation]:
    """As the file holds them, from seconds and peak bytes of each way to hold the base."""
    return [
        Adaptation(
            base_weights=weights,
            recompute=recompute,
            seconds=[seconds for seconds, _ in found],
            peak_bytes=[peak for _, peak in found],
        )
        for (weights, recompute), found in runs.items()
    ]


def adapt_once(
    folder: Path, history: Path, weights: str, recompute: bool, *, threads: int
) -> tuple[float, int]:
    """Seconds and peak bytes of one `proper adapt` in a process of its own. Raises ProgramError."""
    words = ["adapt", str(history), "--base-weights", weights]
    words += ["--recompute"] if recompute else []
    begin = time.monotonic()
    peak = run_program("adapt", [*program_of(folder), *words], threads)
    return time.monotonic() - begin, peak


def predicted() -> list[Predicted]:
    """The memory model's figures for all public shapes."""
    from benchmarks.measuring.device_shapes import SHAPES, predict

    found = []
    for shape in SHAPES:
        say(f"memory model: {shape}")
        settings = load_profile(PROFILE)
        found += predict(shape, preset(PRESET), settings, sample_tokens=SAMPLE_TOKENS)
    return found


def make_person(folder: Path, seed: int) -> Path:
    """A home with an installed release, and the history file of the first person who is long enough."""
    from client.home import Home
    from client.releases.add import add_bundle
    from coordinator.keys import load_or_create_key
    from coordinator.pooled_stages import run_pooled_stages
    from coordinator.publish import publish
    from proper_model.bundle.trusted_root import TrustedRoot
    from proper_model.release.contents import release_to_files

    settings = load_profile(PROFILE)
    task, people, person = people_of(DATA, settings.template, ITEMS)
    pooled = [
        dataclasses.replace(user, history=user.history[-POOLED_ITEMS:]) for user in people[:POOLED]
    ]
    release = run_pooled_stages(
        pooled, task, str(BASE), preset(PRESET), settings, seed=seed, cache=folder / "cache"
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
    return save_person(folder, person, ITEMS)


def task_of(data: Path) -> str:
    """The task file of a data set."""
    return f"profiles/tasks/{data.name}.toml"


def people_of(data: Path, template: str | None, items: int) -> tuple[Task, Sequence[User], User]:
    """A data set's task, its pooled people, and the first test user with so many items.

    Raises DataError where the data are not there, or nobody has so many.
    """
    task = load_task(task_of(data), template=template)
    people = read_population(data, task)
    person = next((user for user in people.test if len(user.history) >= items), None)
    if person is None:
        raise DataError(f"{data}: no test user has {items} items")
    return task, people.pooled, person


def language_person() -> User | None:
    """Whoever is measured over LANGUAGE_BASE; None where that is not there, and it is said.

    Raises as `people_of`, before hours of measuring.
    """
    if not (LANGUAGE_BASE / "config.json").is_file():
        say(f"no language model at {LANGUAGE_BASE}, so none is measured; make base gets it")
        return None
    return people_of(LANGUAGE_DATA, "short", LANGUAGE_ITEMS)[2]


def language_run(folder: Path, person: User, threads: int) -> PersonRun:
    """As `person_run`, over a release of one's own, with the person's newest items."""
    folder.mkdir()
    history = save_person(folder, shortened(person), LANGUAGE_ITEMS)
    made = ["start", "--base", str(LANGUAGE_BASE.resolve()), "--task", task_of(LANGUAGE_DATA)]
    run_program("start", [*program_of(folder), *made], threads)
    return person_run(folder, history, LANGUAGE_BASE.name, LANGUAGE_DATA.name, threads)


def shortened(person: User) -> User:
    """The person with the first words of each text."""
    items = tuple(
        dataclasses.replace(
            item,
            fields={**item.fields, "text": " ".join(item.fields["text"].split()[:LANGUAGE_WORDS])},
        )
        for item in person.history
    )
    return dataclasses.replace(person, history=items)


def person_run(folder: Path, history: Path, base: str, data: str, threads: int) -> PersonRun:
    """One person from start to end: `proper adapt` in parts, then first tokens of the adapter's answers."""
    found, command = folder / "parts.json", program_of(folder)
    words = [*command[3:], "--threads", str(threads), "adapt", str(history)]
    measured = [*command[:2], "benchmarks.measuring.adapt_split", str(found), *words]
    peak = run_program("adapt", measured, threads)
    split = json.loads(found.read_text())
    question = json.loads(history.read_text())["profile"][-1]["text"]
    threaded = [*command, "--threads", str(threads)]
    run = PersonRun(
        base=base,
        data=data,
        items=len(split["tokens"]),
        tokens=sum(split["tokens"]),
        parts={name: Part(**spent) for name, spent in split["parts"].items()},
        peak_bytes=peak,
        generate_s=generate_once(threaded, question, threads),
        serve_s=serve_seconds(threaded, question, threads),
    )
    wall = sum(part.wall_s for part in run.parts.values())
    say(f"{base}: adapt {wall:.0f} s, first token {run.generate_s:.1f} s, warm {run.serve_s:.2f} s")
    return run


def save_person(folder: Path, person: User, items: int) -> Path:
    """The person's newest items as a history file, and a passphrase beside it."""
    history, passphrase = folder / "history.json", folder / "passphrase"
    history.write_text(json.dumps(user_to_json(User(person.user_id, person.history[-items:], ()))))
    passphrase.touch(mode=0o600)
    passphrase.write_text("unhurried walnut ferry bishop\n")
    return history


def program_of(folder: Path) -> list[str]:
    """`proper` over the home in a folder of `save_person`."""
    return program(folder / "home", folder / "passphrase")


if __name__ == "__main__":
    start(app)
