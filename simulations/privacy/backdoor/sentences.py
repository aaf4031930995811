"""What trap releases made of adapters, in sentences for a record of processing: one a trap."""

from __future__ import annotations

from simulations.privacy.results.backdoor_schema import BackdoorResult, Judged
from simulations.privacy.results.canary_schema import CanaryRow

NAMES = {
    "fixed": "whose calibration no own items judge",
    "recipe": "whose recipe trains adapters at a far higher rate for far longer",
    "scale": "whose adapters have a far larger alpha",
    "start": "whose adapters begin with far larger factors",
    "experts": "with far larger experts",
    "outliers": "whose base has hidden units with far larger weights, which nothing but an adapter reads",
}


def sentences(result: BackdoorResult, honest: str) -> list[str]:
    """Every trap beside the honest release, by the secrets that stood there most often."""
    most = result.insertions[-1]
    bare = result.canary(honest, most)
    found = []
    for one in result.judged:
        row = result.canary(one.thing, most)
        if one.thing != honest and bare is not None and row is not None:
            found.append(_sentence(result, one, row, bare))
    return found


def _sentence(result: BackdoorResult, one: Judged, row: CanaryRow, bare: CanaryRow) -> str:
    kind, _, how = one.thing.partition("-")
    within = ", as strong as a device lets pass," if how == "bounded" else ""
    bits, secret = row.pooled.against_public, row.pooled.greedy
    times = "once" if row.insertions == 1 else f"{row.insertions} times"
    refused = "refuses such a release" if one.refused == one.seeds else "takes such a release"
    if 0 < one.refused < one.seeds:
        refused = f"refuses {one.refused} of {one.seeds} such releases"
    own = result.record(one.thing)
    auc = (
        ""
        if own is None
        else f" and an own item was told from another in {own.pooled.auc:.0%} of pairs"
    )
    return (
        f"From an adapter over a release {NAMES[kind]}{within} a secret that stood in its items {times} had "
        f"an exposure of {bits.value:.1f} bits (95% interval {bits.low:.1f} to {bits.high:.1f}; "
        f"{bare.pooled.against_public.value:.1f} over the honest release) and was given word for word in "
        f"{secret.value:.0%} of cases ({bare.pooled.greedy.value:.0%}){auc}: a device {refused}."
    )
