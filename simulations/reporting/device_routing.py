"""Which experts each simulated device leans on, from its fitted embedding alone.

The user half of the router, softmax(W_e e_u) of eq. 8, for every router of the model. An expert's
number means nothing across routers unless they are tied, so weights are laid side by side and never
averaged over routers (docs/method.md 1.6). A real federation must not log this: it tells group membership.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor

from proper_model.federation.run_plan import RunPlan
from simulations.outcome.details import Routing
from simulations.outcome.devices import read_device_user, read_state
from simulations.reporting.parameters import find_shared

LAYER = re.compile(r"\.(\d+)\.")


def device_routing(plan: RunPlan, *, prefix: str = "") -> Routing | None:
    """Weights of every device with a stage 3 embedding; None if there is no release or none."""
    shared = find_shared(plan)
    if shared is None or "stage3" not in plan.state_arms:
        return None
    routers = user_routers(load_file(shared))
    devices, weights = [], []
    for entry in plan.devices:
        if not (entry.folder / "state" / "stage3.state").is_file():
            continue
        state = read_state(entry, "stage3", read_device_user(entry, plan).user_id)
        if state.embedding is None:
            continue
        devices.append(prefix + entry.device_id)
        weights.append(user_weights(routers, state.embedding))
    if not devices or not routers:
        return None
    return Routing(devices=devices, experts=plan.structure.experts, weights=weights)


def user_routers(shared: Mapping[str, Tensor]) -> list[tuple[int, Tensor]]:
    """(block number, W_e `[N, e]`) of every router, in the order of the blocks."""
    found = []
    for name, tensor in shared.items():
        if name == "routers.tied.user":
            return [(0, tensor)]
        if name.startswith("routers.") and name.endswith(".user"):
            layer = LAYER.search(name)
            found.append((int(layer[1]) if layer else 0, name, tensor))
    return [(layer, tensor) for layer, _, tensor in sorted(found, key=lambda row: row[:2])]


def user_weights(routers: list[tuple[int, Tensor]], embedding: Tensor) -> list[float]:
    """softmax(W_e e_u) of all routers side by side; `embedding` is `[tables, e]`."""
    tables = embedding.shape[0]
    rows = [
        torch.softmax(weight.float() @ embedding[layer if tables > 1 else 0].float(), dim=0)
        for layer, weight in routers
    ]
    return [float(value) for row in rows for value in row]
