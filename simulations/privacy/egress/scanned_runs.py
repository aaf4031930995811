"""The two runs that are scanned: a whole simulated federation, and one person's life with `proper`.

Each runs as child processes whose home, caches, temporary folder, working folder and output lie below
one folder, in which nothing else lies, with canaries in all that is private: every person of a
federation, pooled or tested, has some of their own, and the person of the command line has them in the
passphrases, in the path of the home and in what makes commands fail, too. What a run yields is that
folder, the canaries, and the places in which they are meant to stand, each with its reason.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from client.person.state import PersonalState, encode
from client.person.stores import FolderStore, VaultStore
from client.vault.opening import open_vault
from client.vault.secrets import Passphrase
from proper_model.errors import SimulationError
from proper_model.federation.run_plan import PLAN_FILE, RunPlan
from proper_model.storage.files import make_private_folder, save_private
from proper_model.tasks import HistoryItem, User, users_to_json
from simulations.flower.actors import RECORDED
from simulations.privacy.egress import client_life, witness
from simulations.privacy.egress.canaries import Canary, draw, in_tensors, plant
from simulations.privacy.egress.scanner import Scanner
from simulations.synthetic.people import SyntheticPopulation, make_synthetic
from simulations.synthetic.tiny_base import make_tiny_base

KIND = "synth_text"  # its answers are free text, so that they can hold canaries
OF_PEOPLE = ("user id", "item id", "item text", "question", "answer")
OF_PERSON = (*OF_PEOPLE, "exception", "selector")
PASSPHRASES = ("passphrase", "new passphrase", "backup passphrase", "wrong passphrase")
PERSON, OPERATOR = "person", "operator"
WIRE, OUTPUTS, PEOPLE, GIVEN = "messages", "outputs", "people", "given"
# Short: what is looked at is where data go, not what is learned.
PROFILE = """
extends = "demo"
name = "egress"
[population]
epochs = 1
[group]
epochs = 2
[router]
epochs = 1
[user]
epochs = 2
embedding_epochs = 2
held_back_folds = 1
"""
# Below the scanned folder, so that what libraries leave there is seen.
ELSEWHERE = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "xdg/cache",
    "XDG_CONFIG_HOME": "xdg/config",
    "XDG_DATA_HOME": "xdg/data",
    "XDG_STATE_HOME": "xdg/state",
    "XDG_RUNTIME_DIR": "xdg/run",
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "FLWR_HOME": "flower",
}
DROPPED = ("HF_", "XDG_", "PROPER_", "TRANSFORMERS_", "FLWR_HOME")


@dataclass(frozen=True)
class Allowed:
    """Where canaries are meant to stand, and why: `place` is a pattern of fnmatch, `owner` whose.

    A place is a path below the scanned folder, with canaries as a report shows them. What a process
    removed counts as where it was. `names` are patterns too, of the canaries.
    """

    place: str
    owner: str
    reason: str
    names: tuple[str, ...] = ("*",)

    def covers(self, place: str, owner: str, name: str) -> bool:
        """Whether a canary may be found there."""
        parts = Path(place).parts
        if parts[:1] == (witness.REMOVED,):
            place = str(Path(*parts[2:]))
        return (
            fnmatch.fnmatchcase(place, self.place)
            and fnmatch.fnmatchcase(owner, self.owner)
            and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)
        )


@dataclass(frozen=True)
class ScannedRun:
    """A run that has ended.

    Attributes:
        root: the folder to scan; notes: where the witness wrote.
        inside: what lies on no disk in clear but must hold canaries, as a control; by a name.
        told: what it did, in words and numbers, for the result file.
    """

    name: str
    root: Path
    notes: Path
    canaries: tuple[Canary, ...]
    allowed: tuple[Allowed, ...]
    told: Mapping[str, int]
    inside: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Cast:
    """Synthetic people with canaries: `pooled` and `test` take part in a federation, `alone` does not."""

    population: SyntheticPopulation
    pooled: tuple[User, ...]
    test: tuple[User, ...]
    alone: User
    canaries: tuple[Canary, ...]


def make_cast(seed: int, rng: np.random.Generator | None = None) -> Cast:
    """People from a seed, canaries from `rng` or the system's entropy."""
    population = make_synthetic(KIND, preset="smoke", seed=seed)
    canaries: list[Canary] = []

    def marked(kind: str, users: Sequence[User], names: Sequence[str]) -> tuple[User, ...]:
        planted = []
        for number, user in enumerate(users):
            own = draw(kind if kind == PERSON else f"{kind} {number}", names, rng)
            canaries.extend(own.values())
            planted.append(plant(user, own))
        return tuple(planted)

    people = population.population
    return Cast(
        population,
        marked("pooled", people.pooled, OF_PEOPLE),
        marked("test", people.test[:-1], OF_PEOPLE),
        marked(PERSON, people.test[-1:], OF_PERSON)[0],
        tuple(canaries),
    )


def run_federation(
    folder: Path, cast: Cast, rng: np.random.Generator | None = None
) -> tuple[ScannedRun, Path]:
    """`proper-sim run` over the cast, each message kept; and the folder of the signed release.

    Raises SimulationError if the run failed.
    """
    root, notes = make_private_folder(folder / "scanned"), folder / "notes"
    own = draw(OPERATOR, ["path"], rng)
    place = make_private_folder(root / own["path"].text)
    out, wire = place / "run", make_private_folder(root / WIRE)
    words = ["run", *given_people(root, cast), "--out", str(out), "--cache", str(place / "cache")]
    command = [sys.executable, "-c", "from simulations.cli import main; main()", *words]
    code = _run(command, root, notes, "run", {RECORDED: str(wire)})
    if code != 0:
        raise SimulationError(
            f"the run that was to be scanned ended with exit code {code}",
            hint=f"its output is in {root / OUTPUTS}",
        )
    plan, release = RunPlan.load(out / PLAN_FILE), out / "server" / "release"
    tensors = [*learned(_tensors_of_devices(plan, cast), release), *pooled_rows(plan.cache)]
    run = ScannedRun(
        name="federation",
        root=root,
        notes=notes,
        canaries=(*(c for c in cast.canaries if c.owner != PERSON), *own.values(), *tensors),
        allowed=_allowed_in_federation(plan),
        told={"messages": len(list(wire.iterdir())), "devices": len(plan.devices)},
    )
    return run, release


def given_people(root: Path, cast: Cast) -> list[str]:
    """Write the cast, a base and a short profile below `root`; words for `proper-sim` that name them."""
    data = make_private_folder(root / PEOPLE)
    for name, users in (("user_others", cast.pooled), ("user_top_100_history", cast.test)):
        save_private(data / f"{name}.json", json.dumps(users_to_json(users)).encode())
    save_private(root / "profile.toml", PROFILE.encode())
    made = cast.population
    base = make_tiny_base(root / "base", made.pretrain_texts, vocabulary=made.vocabulary)
    named = ["--profile", str(root / "profile.toml"), "--preset", "device"]
    return [str(data), "--task", KIND, "--base", str(base), *named]


def _tensors_of_devices(plan: RunPlan, cast: Cast) -> list[Canary]:
    """What each device learned, as numbers to be looked for."""
    found: list[Canary] = []
    for number, (entry, user) in enumerate(zip(plan.devices, cast.test, strict=True)):
        state = FolderStore.found(entry.folder / "state", "stage3", user.user_id).read()
        found += in_tensors(f"test {number}", arrays(state))
    return found


def pooled_rows(cache: Path) -> list[Canary]:
    """Pooled people's rows of the embedding table, which no release may hold (docs/security.md 0.5)."""
    (cached,) = cache.glob("group-*/done.safetensors")
    rows = {f"row {n}": row.numpy() for n, row in enumerate(load_file(cached)["table"])}
    return list(in_tensors("pooled table", rows))


def arrays(state: PersonalState) -> dict[str, NDArray[Any]]:
    """What a state learned, by name."""
    return {name: tensor.numpy() for name, tensor in state.private(KIND).items()}


def learned(canaries: Iterable[Canary], release: Path) -> tuple[Canary, ...]:
    """Those numbers that do not stand in the release, which was signed before anybody learned.

    An embedding that training left where it began is a row of the release, hence public.
    """
    given = tuple(canaries)
    public = {(f.owner, f.canary) for f in Scanner(given).scan_tree(release).findings}
    # Of several people who stayed at the same row, the scanner names one.
    rows = {c.numbers for c in given if (c.owner, c.name) in public}
    return tuple(c for c in given if c.numbers not in rows)


def _allowed_in_federation(plan: RunPlan) -> tuple[Allowed, ...]:
    run = "<path>/run"
    given = "the data that the run was given"
    simulated = "a simulated device's own folder, which is plaintext (docs/security.md 3)"
    work = "unfinished training of a device that this node plays; removed when it has ended"
    nodes = plan.node_count
    hosts = {e.device_id: n for n in range(nodes) for e in plan.devices_of(n, nodes)}
    rules = [
        Allowed(f"{PEOPLE}/user_others.json", "pooled *", given),
        Allowed(f"{PEOPLE}/user_top_100_history.json", "test *", given),
        Allowed("<path>/cache/group-*", "pooled table", "stage 2 as the server keeps it"),
        Allowed(f"{run}/server/pooled.json", "pooled *", "pooled people's data are the server's"),
        Allowed(
            f"{run}/controls/*",
            "test *",
            "control arms are computed by the simulation itself, which plays all devices",
            ("user id",),
        ),
        Allowed("<path>*", OPERATOR, "folders of the run are called so, and its plan names them"),
        Allowed(f"{OUTPUTS}/run.stderr", OPERATOR, "the operator is told where the report lies"),
    ]
    for number, entry in enumerate(plan.devices):
        owner, node = f"test {number}", hosts[entry.device_id]
        rules.append(Allowed(f"{run}/devices/{entry.device_id}/*", owner, simulated))
        rules.append(Allowed(f"{run}/nodes/{node}/work/*", owner, work))
    return tuple(rules)


def run_client(
    folder: Path, cast: Cast, release: Path, rng: np.random.Generator | None = None
) -> ScannedRun:
    """One person's commands over a signed release, those that must fail included."""
    root, notes = make_private_folder(folder / "scanned"), folder / "notes"
    own = draw(PERSON, ["path", *PASSPHRASES], rng)
    known = own | {c.name: c for c in cast.canaries if c.owner == PERSON}
    place = make_private_folder(root / own["path"].text)
    given, outputs = make_private_folder(place / GIVEN), make_private_folder(root / OUTPUTS)
    write_given(given, cast.alone, known)
    home = place / "private"
    life = {
        "options": ["--home", str(home), "--passphrase-file", str(given / "passphrase")],
        "commands": commands(given, place, release, known),
    }
    plan = notes / "commands.json"
    make_private_folder(notes)
    save_private(plan, json.dumps(life).encode())
    module = "simulations.privacy.egress.client_life"
    code = _run([sys.executable, "-m", module, str(plan), str(outputs)], root, notes, "life", {})
    if code != 0:
        raise SimulationError(
            f"the commands that were to be scanned ended with exit code {code}",
            hint=f"their output is in {outputs}",
        )
    codes = json.loads((outputs / client_life.CODES).read_text())
    vault = open_vault(home / "vault", Passphrase(own["new passphrase"].text))
    state = VaultStore(vault).read()
    return ScannedRun(
        name="client",
        root=root,
        notes=notes,
        canaries=(*known.values(), *learned(in_tensors(PERSON, arrays(state)), release)),
        allowed=_allowed_of_client(),
        told={f"exit code of {name}": code for name, code in codes.items()},
        inside={"the open vault": encode(state), "what was typed": plan.read_bytes()},
    )


def write_given(folder: Path, user: User, canaries: Mapping[str, Canary]) -> None:
    """The person's files: a history and a longer one, bad ones, questions, passphrases."""
    bad = canaries["exception"].text
    half = User(user.user_id, user.history[: len(user.history) // 2], user.queries)
    wrong = HistoryItem(bad, {"text": bad}, date=bad)  # lacks a field, and the date is none
    files = {
        "user.json": json.dumps(users_to_json((half,))),
        "later.json": json.dumps(users_to_json((user,))),
        "bad.json": json.dumps(users_to_json((User(bad, (wrong,), ()),))),
        "broken.json": f'[{{"user_id": "{bad}", ',
        "questions.jsonl": json.dumps({"id": "1", "input": user.queries[0].input}) + "\n",
        "bad-questions.jsonl": json.dumps({"id": bad, bad: bad}) + "\n",
        **{name.replace(" ", "-"): canaries[name].text + "\n" for name in PASSPHRASES},
    }
    for name, text in files.items():
        save_private(folder / name, text.encode())


def commands(
    given: Path, place: Path, release: Path, canaries: Mapping[str, Canary]
) -> list[list[str]]:
    """What the person types."""
    backup = str(place / "backup.age")
    backup_key = ["--backup-passphrase-file", str(given / "backup-passphrase")]
    return [
        ["bundle", "add", str(release)],
        ["adapt", str(given / "broken.json")],
        ["adapt", str(given / "bad.json")],
        ["adapt", str(given / "user.json")],
        ["generate", canaries["question"].text],
        ["generate", "--input", str(given / "questions.jsonl")],
        ["generate", "--input", str(given / "bad-questions.jsonl")],
        ["inspect"],
        ["inspect", "--items"],
        ["evaluate"],
        ["update", str(given / "later.json")],
        ["forget", "--items", "2"],
        ["forget", "--items", f"contains:{canaries['selector'].text}"],
        ["export", "--format", "peft", "--out", str(place / "adapter")],
        ["export", "--format", "age-backup", "--out", backup, *backup_key],
        ["import", backup, "--replace", *backup_key],
        ["rollback"],
        ["status"],
        ["path"],
        ["doctor"],
        ["lock"],
        ["passwd", "--new-passphrase-file", str(given / "new-passphrase")],
        ["evaluate"],  # with the passphrase of before
    ]


def _allowed_of_client() -> tuple[Allowed, ...]:
    asked = "answers and items that the person asked to see"
    return (
        Allowed(f"<path>/{GIVEN}/*", PERSON, "the person's own files, which are only read"),
        Allowed("<path>*", PERSON, "the person's folder is called so", ("path",)),
        Allowed(f"{OUTPUTS}/*", PERSON, "the terminal names the person's folders", ("path",)),
        Allowed(f"{OUTPUTS}/*-generate.stdout", PERSON, asked, ("question", "item text", "answer")),
        Allowed(
            "<path>/adapter/*",
            PERSON,
            "an adapter that the person exported for another program, which is not encrypted",
            ("tensor *",),
        ),
        Allowed(f"{OUTPUTS}/*-inspect.stdout", PERSON, asked, ("item id", "item text", "answer")),
    )


def _run(
    command: Sequence[str], root: Path, notes: Path, name: str, more: Mapping[str, str]
) -> int:
    """Run a child to its end, witnessed, with everything that it may leave below `root`."""
    environment = witness.attach({**apart(root), **more}, scanned=root, notes=notes)
    return run_child(command, root, name, environment)


def apart(root: Path) -> dict[str, str]:
    """An environment of a child whose home, caches and temporary folder lie below `root`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
    places = {variable: str(make_private_folder(root / at)) for variable, at in ELSEWHERE.items()}
    package = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")]))
    return {**kept, **places, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}


def run_child(command: Sequence[str], root: Path, name: str, environment: Mapping[str, str]) -> int:
    """Run a child to its end; what it says goes below `root`, and its exit code comes back."""
    outputs = make_private_folder(root / OUTPUTS)
    with (
        (outputs / f"{name}.stdout").open("wb") as out,
        (outputs / f"{name}.stderr").open("wb") as errors,
    ):
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=environment,
            cwd=make_private_folder(root / "work"),
            check=False,
        )
    return done.returncode
