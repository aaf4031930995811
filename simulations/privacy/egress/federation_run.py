"""A whole simulated federation to be scanned: every person of it, pooled or tested, has canaries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from client.person.stores import FolderStore
from proper_model.errors import SimulationError
from proper_model.federation.run_plan import PLAN_FILE, RunPlan
from proper_model.storage.files import make_private_folder, save_private
from proper_model.tasks import users_to_json
from simulations.flower.actors import RECORDED
from simulations.privacy.egress.canaries import Canary, draw, in_tensors
from simulations.privacy.egress.cast import KIND, PERSON, Cast, arrays, learned
from simulations.privacy.egress.scanned_run import OUTPUTS, Allowed, ScannedRun, run_witnessed
from simulations.synthetic.tiny_base import make_tiny_base

OPERATOR, WIRE, PEOPLE = "operator", "messages", "people"
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
    code = run_witnessed(command, root, notes, "run", {RECORDED: str(wire)})
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
