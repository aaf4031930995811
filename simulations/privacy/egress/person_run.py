"""One person's life with `proper` to be scanned, over a signed release and the next one.

The person has canaries in all texts, in the passphrases and the token, in the path of the home, and in
what makes commands and requests fail (`person_commands`).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from client.person.state import decode
from client.vault.backup import open_backup
from coordinator.keys import load_key
from coordinator.publish import latest, publish
from coordinator.run_keys import KEYS_FOLDER, RELEASE_KEY
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME
from proper_model.errors import SimulationError
from proper_model.storage.files import make_private_folder, save_private
from simulations.privacy.egress import client_life
from simulations.privacy.egress.canaries import Canary, draw, in_tensors, word
from simulations.privacy.egress.cast import PERSON, Cast, arrays, learned
from simulations.privacy.egress.person_commands import (
    EXPORTS,
    SECRETS,
    TOKEN,
    Typed,
    commands,
    visits,
    write_given,
)
from simulations.privacy.egress.scanned_run import OUTPUTS, Allowed, ScannedRun, run_witnessed
from simulations.privacy.egress.visitor import STATUSES, Visit, write_visits

GIVEN = "given"
DAYS = 30  # the next release is valid


def run_client(
    folder: Path, cast: Cast, release: Path, rng: np.random.Generator | None = None
) -> ScannedRun:
    """Every command of a person over the releases, those that must fail included.

    Args:
        release: the folder of a run's signed release, with the run's keys beside it.

    Raises SimulationError where a command or an answer of `serve` ended otherwise than it must.
    """
    root, notes = make_private_folder(folder / "scanned"), make_private_folder(folder / "notes")
    known = marks(cast, rng)
    place = make_private_folder(root / known["path"].text)
    given, outputs = make_private_folder(place / GIVEN), make_private_folder(root / OUTPUTS)
    write_given(given, cast.alone, known)
    releases = (release, next_release(release, folder / "next-release"))
    typed, asked = commands(given, place, releases, known), visits(known, cast.alone)
    write_visits(notes / "visits.json", asked)
    secret = ["--passphrase-file", str(given / "passphrase")]
    life = {
        "options": ["--home", str(place / "private"), *secret],
        "commands": [one.words for one in typed],
        "visits": str(notes / "visits.json"),
    }
    plan = notes / "commands.json"
    save_private(plan, json.dumps(life).encode())
    module = "simulations.privacy.egress.client_life"
    code = run_witnessed(
        [sys.executable, "-m", module, str(plan), str(outputs)], root, notes, "life"
    )
    if code != 0:
        raise _failed("the commands", code, outputs)
    told = check_codes(outputs, typed) | check_statuses(outputs, asked)
    backup = open_backup(place / "backup.age", known["backup passphrase"].text).document
    numbers = in_tensors(PERSON, arrays(decode(backup)))
    return ScannedRun(
        name="client",
        root=root,
        notes=notes,
        canaries=(*known.values(), *learned(numbers, release)),
        allowed=allowed_of_person(),
        told=told,
        inside={"the opened backup": backup, "what was typed": plan.read_bytes()},
    )


def marks(cast: Cast, rng: np.random.Generator | None = None) -> dict[str, Canary]:
    """The person's canaries by name, those of secrets included."""
    token = Canary(TOKEN, PERSON, text=word(rng) + word(rng))  # a short one is refused
    own = {c.name: c for c in cast.canaries if c.owner == PERSON}
    return own | draw(PERSON, SECRETS, rng) | {TOKEN: token}


def next_release(release: Path, folder: Path) -> Path:
    """The same content again as the next version, signed by the run's own key."""
    shutil.copytree(release, folder)
    newest = latest(folder)
    assert newest is not None
    signed = (MANIFEST_NAME, SIGNATURES_NAME)
    files = {
        path.relative_to(newest.path).as_posix(): path.read_bytes()
        for path in newest.path.rglob("*")
        if path.is_file() and path.name not in signed
    }
    key = load_key(release.parent / KEYS_FOLDER / RELEASE_KEY)
    now = datetime.now(UTC)
    publish(files, folder, [key], created=now, valid_for_days=DAYS, renew=True)
    return folder


def check_codes(outputs: Path, typed: list[Typed]) -> dict[str, int]:
    """The exit codes, for the result file. Raises SimulationError for one that must not be."""
    codes: Mapping[str, int] = json.loads((outputs / client_life.CODES).read_text())
    for (name, code), one in zip(codes.items(), typed, strict=True):
        if code != one.code:
            raise _failed(f"command {name}", code, outputs, expected=one.code)
    return {f"exit code of {name}": code for name, code in codes.items()}


def check_statuses(outputs: Path, asked: list[Visit]) -> dict[str, int]:
    """The statuses of `serve`, for the result file. Raises as `check_codes`."""
    answers = outputs / client_life.VISITED
    statuses: Mapping[str, int] = json.loads((answers / STATUSES).read_text())
    for visit in asked:
        if statuses[visit.name] != visit.status:
            raise _failed(
                f"request {visit.name}", statuses[visit.name], answers, expected=visit.status
            )
    return {f"status of {name}": status for name, status in statuses.items()}


def _failed(what: str, code: int, outputs: Path, *, expected: int = 0) -> SimulationError:
    return SimulationError(
        f"{what} that was to be scanned ended with {code}; expected {expected}",
        hint=f"the output is in {outputs}",
    )


def allowed_of_person() -> tuple[Allowed, ...]:
    """Where the person's canaries are meant to stand."""
    asked, shown = ("question", "item text", "answer"), ("item id", "item text", "answer")
    answer = "an answer to the person's own question"
    items = "the person's items, which the person asked to see"
    visited = f"{OUTPUTS}/{client_life.VISITED}"
    exported = "an adapter that the person exported for another program, which is not encrypted"
    absolute = "PEFT finds a base beside an adapter by its absolute path only"
    return (
        Allowed(
            f"<path>/{GIVEN}/*", PERSON, "the person's own files, which are only read", surely=True
        ),
        Allowed("<path>*", PERSON, "the person's folder is called so", ("path",), forms="name *"),
        Allowed(
            f"{OUTPUTS}/*.stdout", PERSON, "the terminal names the person's folders", ("path",)
        ),
        Allowed(
            f"{OUTPUTS}/*.stderr", PERSON, "the terminal names the person's folders", ("path",)
        ),
        Allowed(f"{OUTPUTS}/*-generate.stdout", PERSON, answer, asked),
        Allowed("<path>/answers.jsonl", PERSON, answer, asked),
        Allowed(f"{OUTPUTS}/*-inspect.stdout", PERSON, items, shown, surely=True),
        Allowed(
            f"{OUTPUTS}/*-serve.stdout", PERSON, "the address of the page", (TOKEN,), surely=True
        ),
        Allowed(f"{visited}/asked-*", PERSON, answer, asked),
        Allowed(f"{visited}/items*", PERSON, items, shown, surely=True),
        *(
            Allowed(f"<path>/{name}/*", PERSON, exported, ("tensor *",), surely=name == "adapter")
            for name in EXPORTS
        ),
        Allowed("<path>/adapter-with-base/adapter_config.json", PERSON, absolute, ("path",)),
    )
