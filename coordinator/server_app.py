"""The coordinator, from pooled users to personalized devices, read from top to bottom.

    pooled stages -> signed release -> bundle to the nodes -> personalization -> evaluation

The pooled stages run here, on users who agreed to pool their data; everything private runs on the
nodes, which answer with a status code. A coordinator that is killed and started again goes on
after the last finished step. Source: docs/method.md 1.1, 1.7; PROPER arXiv 2503.01303, figure 2.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from coordinator.federation import Federation, MessageLedger
from coordinator.journal import PROGRESS_FILE, Journal, ProgressFile, exclusive
from coordinator.publish import PublishedBundle
from coordinator.run_keys import signing_keys
from coordinator.run_release import publish_release, published
from coordinator.shipment import Shipment
from coordinator.step_curves import CURVES
from proper_model.errors import ProperError, SimulationError
from proper_model.federation.machine import HARDWARE_FILE, facts
from proper_model.federation.protocol import Kind, Status
from proper_model.federation.run_plan import RunPlan, find_plan
from proper_model.federation.step_clock import TIMINGS_FILE, StepClock
from proper_model.progress import Progress
from proper_model.storage.documents import parse_json
from proper_model.storage.files import read_regular, storage_errors, write_atomic

MAX_HARDWARE_BYTES = 1024 * 1024

# Steps of a run's clock. "release" is what remains around the pooled stages: data and signing.
POOLED_STEPS = ("base", "tokenize", "population", "group", "router", "starts", "calibration")
RELEASE = "release"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry. What goes wrong is left in `progress.json` and then raised."""
    plan = RunPlan.load(find_plan(context.run_config.get("plan")))
    progress = ProgressFile(plan.out / PROGRESS_FILE)
    try:
        with storage_errors(plan.out), exclusive(plan.server_folder):
            coordinate(plan, grid, progress)
    except ProperError as error:
        progress.failed(error.message, error.hint, type(error).__name__)
        raise
    except Exception as error:
        name = type(error).__name__
        progress.failed(f"the coordinator stopped with {name}", None, name)
        raise
    progress.finished()


def coordinate(plan: RunPlan, grid: Grid, progress: ProgressFile) -> None:
    """All steps of a run. Raises SimulationError if a node or a device did not finish."""
    journal = Journal.open(plan.server_folder, plan.fingerprint())
    federation = Federation(
        grid=grid,
        ledger=MessageLedger(plan.out / "messages.jsonl"),
        attempts=plan.attempts,
        message_timeout_s=plan.message_timeout_s,
        round_timeout_s=plan.round_timeout_s,
        progress=progress.report,
        proceed_with_fewer=plan.fewer_nodes == "proceed",
    )

    if journal.done("personalize") and journal.done("evaluate"):
        return
    # Until here it was Flower that took its time: the launcher's clock waits for this word.
    progress.report("coordinator", 0, 0)
    note_hardware(plan)

    with StepClock(plan.out / TIMINGS_FILE) as clock:
        # Stages 1, 2 and 3a-3b on pooled users, frozen and signed.
        release = published(plan, journal.value("release")) if journal.done("release") else None
        if release is None:
            journal.forget("personalize", "evaluate")  # they were about another release
            clock.enter(RELEASE)
            with journal.step("release") as result:
                release = make_release(
                    plan, clock.watch(progress.report, POOLED_STEPS, rest=RELEASE)
                )
                result["value"] = release.bundle_id
            clock.leave()

        # Every node gets the pieces it lacks, once, verifies the bundle and installs it.
        clock.enter("ship")
        federation.wait_for_nodes(plan.node_count)
        shipment = Shipment.of_folder(release.bundle_id, release.path)
        with journal.step("ship"):
            require(federation.ship(shipment), "install the bundle")

        # The private round and predictions, both on the devices. Status codes come back.
        problems = []
        for phase, kind in (("personalize", Kind.PERSONALIZE), ("evaluate", Kind.EVALUATE)):
            if journal.done(phase):
                continue
            clock.enter(phase)
            progress.report(phase, 0, len(federation.nodes))
            try:
                # Only the whole federation finishes a phase; who was absent is asked next time.
                with journal.step(phase, keep=len(federation.nodes) >= plan.node_count):
                    require(federation.round(kind, shipment), phase)
            except SimulationError as error:
                # One device without an adapter does not keep the others from being evaluated.
                problems.append(error)
    if problems:
        raise problems[0]


def make_release(plan: RunPlan, report: Progress) -> PublishedBundle:
    """Run the pooled stages and publish what they made; with consents, check them and keep a record."""
    import torch

    from coordinator.agreed_release import AgreedRelease
    from coordinator.pooled_stages import run_pooled_stages
    from proper_model.data import read_users
    from proper_model.engine import manage_freed_memory
    from proper_model.settings import Stage2People
    from proper_model.tasks import task_from_toml

    signing_keys(plan)  # a missing key is found now, not after hours of training
    torch.set_num_threads(plan.server_threads)
    manage_freed_memory(plan.node_memory_bytes)
    task = task_from_toml(plan.task_toml, template=plan.template, where="plan: task_toml")
    pooled = read_users(plan.pooled_file, task)
    personalized = (
        read_users(plan.personalized_file, task)
        if plan.stage2_users is Stage2People.EVERYBODY
        else ()
    )
    agreed = AgreedRelease(plan, {user.user_id for user in (*pooled, *personalized)})
    agreed.check()  # somebody may have withdrawn since the run was prepared
    release = run_pooled_stages(
        pooled,
        task,
        plan.base,
        plan.structure,
        plan.stage_settings,
        seed=plan.seed,
        cache=plan.cache,
        personalized=personalized,
        shuffle_identities=plan.stage2_users is Stage2People.SHUFFLED,
        memory_bytes=plan.node_memory_bytes,
        progress=report,
        curves=plan.server_folder / CURVES,
    )
    report("signing the release", 0, 1)
    published = publish_release(agreed.said_in(release), plan)
    agreed.record(published)
    return published


def require(outcome: Mapping[int, Status], step: str) -> None:
    """Raise SimulationError with a count of status codes unless every node is OK."""
    counts = Counter(status for status in outcome.values() if status is not Status.OK)
    if counts:
        said = ", ".join(f"{count} x {status.value}" for status, count in sorted(counts.items()))
        raise SimulationError(
            f"{sum(counts.values())} of {len(outcome)} nodes did not finish '{step}': {said}",
            hint="reasons are in nodes/*/failure.json and devices/*/failure.json of the run's "
            "folder; run again to go on with what is missing",
        )


def note_hardware(plan: RunPlan) -> None:
    """Add this machine and its versions to those that the run was trained on."""
    path, here = plan.out / HARDWARE_FILE, facts()
    try:
        known = list(parse_json(read_regular(path, limit_bytes=MAX_HARDWARE_BYTES)))
    except (OSError, ValueError, TypeError):
        known = []
    if here not in known:
        write_atomic(path, (json.dumps([*known, here], indent=1) + "\n").encode())
