"""What is left of whoever was deleted, in the folders of a coordinator and of a device.

Canaries stand in people's ids and texts, and numbers that were trained on them are canaries too. An operator
records consents, trains, takes two withdrawals, erases, and trains again; a person adapts, asks, and forgets
an item. Everything below their folders is looked through before and after, in all forms that
`egress.scanner` knows. What is encrypted it cannot see: a vault's content is looked at opened.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.home import Home
from client.person import adapting
from client.person.learner import Learner
from client.person.state import PersonalState, encode
from client.person.stores import VaultStore
from client.person.workspace import Workspace
from client.vault.opening import open_vault
from client.vault.secrets import Passphrase
from proper_model.errors import SimulationError
from proper_model.progress import Progress
from proper_model.storage.files import make_private_folder, save_private
from proper_model.tasks import users_to_json
from simulations.privacy.deletion.found import Remaining, Retrained, Row, difference
from simulations.privacy.egress.canaries import Canary, draw, in_tensors, plant, word
from simulations.privacy.egress.cast import KIND, PERSON, Cast, arrays, learned, make_cast
from simulations.privacy.egress.federation_run import given_people, pooled_rows
from simulations.privacy.egress.scanned_run import OUTPUTS, apart, run_child
from simulations.privacy.egress.scanner import Scan, Scanner

GONE = ("pooled 0", "pooled 1")
TEXTS = ("item text", "question", "answer")
WHAT = ("id", "text", "trained numbers")
OPENED = "the vault, opened"
# Places by the beginning of their path, the first that fits; all are told, also where nothing stands.
POOLED_PLACES = {
    "people/": "data that the operator gave",
    "ids/": "lists of ids that the operator typed",
    "consents.json": "the file of consents",
    "first/server/pooled.json": "the first run's copy of pooled data",
    "first/server/release/": "the first release",
    "first/": "the rest of the first run",
    "cache/": "cached phases",
    "second/server/release/": "the next release",
    "second/": "the rest of the next run",
    f"{OUTPUTS}/": "what commands said",
    "": "elsewhere (home, temporary files, caches of libraries)",
}
DEVICE_PLACES = {
    "given/": "the person's own file",
    "private/vault": "the vault, closed",
    "private/": "the rest of the person's folder",
    f"{OUTPUTS}/": "what commands said",
    OPENED: OPENED,
    "": "elsewhere (home, temporary files, caches of libraries)",
}


def remains(folder: Path, seed: int, progress: Progress) -> list[Row]:
    """Both lives below `folder`, a new one. Raises SimulationError if a command failed."""
    folder = folder.absolute()  # commands run in a folder of their own
    cast = make_cast(seed, np.random.default_rng([seed, 9]))
    progress("an operator's consents, releases and withdrawals", 0, 2)
    coordinator, release = pooled_life(folder / "coordinator", cast)
    progress("a person forgets", 1, 2)
    device = device_life(folder / "device", cast, release, np.random.default_rng([seed, 10]))
    return [*coordinator, *device]


def pooled_life(folder: Path, cast: Cast) -> tuple[list[Row], Path]:
    """Two releases, between them withdrawals; what stands where before and after; the next release."""
    root = make_private_folder(folder)
    words, consents = given_people(root, cast), str(root / "consents.json")
    ids = {c.owner: c.text for c in cast.canaries if c.name == "user id"}
    listed = make_private_folder(root / "ids")
    everybody = [user.user_id for user in cast.pooled]
    for name, people in (("all", everybody), ("gone", [ids[owner] for owner in GONE])):
        save_private(listed / name, ("\n".join(people) + "\n").encode())

    given = {"data": words[0]} | {
        option.removeprefix("--"): value
        for option, value in zip(words[1::2], words[2::2], strict=True)
    }

    def train(out: str) -> list[str]:
        places = {"out": str(root / out), "cache": str(root / "cache"), "consents": consents}
        return ["train", json.dumps(given | places)]

    record = ["coordinator", "consent", "record", consents, "--people", str(listed / "all")]
    _commands(root, "before", [record, train("first")])
    canaries = [c for c in cast.canaries if c.owner in GONE]
    canaries += pooled_rows(root / "cache")
    scanner = Scanner(canaries)
    before = scanner.scan_tree(root)
    withdraw = ["coordinator", "consent", "withdraw", consents, "--people", str(listed / "gone")]
    erase = ["coordinator", "consent", "erase", consents]
    _commands(root, "after", [withdraw, erase, train("second")])
    after = scanner.scan_tree(root)
    return told("pooled", POOLED_PLACES, before, after), root / "second" / "server" / "release"


def device_life(folder: Path, cast: Cast, release: Path, rng: np.random.Generator) -> list[Row]:
    """A person adapts and forgets one item; what stands where, and how exact the adapter is."""
    root = make_private_folder(folder)
    mark = Canary("item text", PERSON, text=word(rng))
    first, *others = cast.alone.history
    (marked,) = plant(replace(cast.alone, history=(first,)), {"item text": mark}).history
    user = replace(cast.alone, history=(marked, *others))
    given = make_private_folder(root / "given")
    secret = draw(PERSON, ["passphrase"], rng)["passphrase"].text
    save_private(given / "user.json", json.dumps(users_to_json((user,))).encode())
    save_private(given / "passphrase", f"{secret}\n".encode())
    home = root / "private"
    options = ["--home", str(home), "--passphrase-file", str(given / "passphrase")]
    life = [["bundle", "add", str(release)], ["adapt", str(given / "user.json")]]
    _proper(root, "before", options, [*life, ["generate", user.queries[0].input]])
    adapted = _opened(home, secret)
    numbers = learned(in_tensors(PERSON, arrays(adapted)), release)
    scanner = Scanner((mark, *numbers))
    before = _looked(scanner, root, adapted)
    chosen = ["forget", "--yes", "--items", f"contains:{mark.text}"]
    _proper(root, "after", options, [chosen, ["generate", user.queries[0].input]])
    forgot = _opened(home, secret)
    after = _looked(scanner, root, forgot)
    never = _never(home, forgot)
    different, distance = difference(forgot.private(KIND), never.private(KIND))
    change = difference(forgot.private(KIND), adapted.private(KIND))[1]
    exact = Retrained("adapter of the program", 1, int(different), distance, change)
    return [*told("device", DEVICE_PLACES, before, after), exact]


def _looked(scanner: Scanner, root: Path, state: PersonalState) -> Scan:
    scan = scanner.scan_tree(root)
    scan.add(scanner.scan_bytes(encode(state), OPENED))
    return scan


def _opened(home: Path, secret: str) -> PersonalState:
    return VaultStore(open_vault(home / "vault", Passphrase(secret))).read()


def _never(home: Path, state: PersonalState) -> PersonalState:
    """Who has the same seed, release and items, and never had the forgotten one."""
    workspace = Workspace(Home(home))
    learner = Learner(workspace.load(workspace.bundle_of(state)))
    empty = PersonalState(state.bundle_id, state.bundle_version, seed=state.seed)
    return adapting.adapt(learner, empty, adapting.histories_of(state))


def told(run: str, places: Mapping[str, str], before: Scan, after: Scan) -> list[Row]:
    """How often marks stand in each place, by what they are."""
    counts = [
        Counter((_place(places, f.place), _what(f.canary)) for f in s.findings)
        for s in (before, after)
    ]
    unread = Counter(_place(places, one) for one in after.incomplete)
    return [
        Remaining(run, place, what, counts[0][place, what], counts[1][place, what], unread[place])
        for place in places.values()
        for what in WHAT
        if run == "pooled" or what != "id"
    ]


def _place(places: Mapping[str, str], path: str) -> str:
    return next(name for start, name in places.items() if path.startswith(start))


def _what(canary: str) -> str:
    if canary.startswith("tensor "):
        return "trained numbers"
    return "text" if canary in TEXTS else "id"


def _commands(root: Path, name: str, commands: Sequence[Sequence[str]]) -> None:
    _child(root, name, "simulations.privacy.deletion.life", commands)


def _proper(
    root: Path, name: str, options: Sequence[str], commands: Sequence[Sequence[str]]
) -> None:
    life = {"options": list(options), "commands": [list(words) for words in commands]}
    _child(root, name, "simulations.privacy.egress.client_life", life)
    codes = json.loads((root / OUTPUTS / name / "codes.json").read_text())
    failed = [command for command, code in codes.items() if code]
    if failed:
        raise SimulationError(
            f"{failed[0]} ended with exit code {codes[failed[0]]}",
            hint=f"its output is in {root / OUTPUTS / name}",
        )


def _child(root: Path, name: str, module: str, commands: object) -> None:
    """Run a module with commands from a file that lies beside `root`: it quotes what is looked for."""
    plan = make_private_folder(root.parent / f"{root.name}-commands") / f"{name}.json"
    save_private(plan, json.dumps(commands).encode())
    outputs = make_private_folder(root / OUTPUTS / name)
    words = [sys.executable, "-m", module, str(plan), str(outputs)]
    code = run_child(words, root, name, apart(root))
    if code != 0:
        raise SimulationError(
            f"commands of the {root.name} that were to be looked at ended with exit code {code}",
            hint=f"their output is in {root / OUTPUTS}",
        )
