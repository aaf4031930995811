"""The commands that run a prepared plan through Flower itself, to be typed as they stand."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from client.console import QUIET
from proper_model.machine import total_memory_bytes
from proper_model.runplan import PLAN_FILE, RunPlan
from simulations import placement

# Flower would install the app's dependencies again, unpinned; it and Ray would report home.
SWITCHES = (
    "FLWR_TELEMETRY_ENABLED",
    "FLWR_DISABLE_UPDATE_CHECK",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION",
    "RAY_USAGE_STATS_ENABLED",
)

# `flwr run` leaves its local SuperLink running, and Flower has no command that ends it.
STOP_COMMAND = "pkill -f 'flower-superlink.*--port 39091'"


def flwr_command(plan: RunPlan) -> str:
    """The command that runs this plan on this machine."""
    from simulations.launch import choose_resources

    # It may be typed much later, when other things are running or no longer are.
    machine = replace(placement.this_machine(), memory_bytes=total_memory_bytes())
    resources = choose_resources(plan, machine)
    words = [
        *("flwr", "run", ".", "local", "--stream"),
        *("--run-config", run_config(plan.out / PLAN_FILE)),
        *("--federation-config", resources.federation_config()),
    ]
    return " ".join([*(f"{name}={QUIET[name]}" for name in SWITCHES), shlex.join(words)])


def score_command(out: Path) -> str:
    """The command that scores the run in `out`."""
    name = str(out)
    return shlex.join(["proper-sim", "score", f"./{name}" if name.startswith("-") else name])


def run_config(plan_path: Path) -> str:
    """The value of `flwr run --run-config`: one TOML string, whatever the path holds.

    Flower looks for the closing quote before it reads TOML, so a quote in the path is an escape.
    """
    text = re.sub(
        r'["\\\x00-\x1f\x7f]', lambda match: f"\\u{ord(match[0]):04x}", str(plan_path.resolve())
    )
    return f'plan="{text}"'
