"""What of a person leaves: two runs with canaries are scanned, and what stands where it must not is told.

A canary outside of the places where it is meant to stand (`Allowed`, each with its reason) is a leak. A
canary that was found nowhere is told too: either it was not planted or the scanner is blind, so the
result would mean nothing. So are canaries that were planted nowhere and found all the same, everything
that could not be looked at to its end, and every try to reach a network. Source: docs/security.md 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from proper_model.progress import Progress, silent
from proper_model.storage.files import make_private_folder
from proper_model.storage.new_folder import check_new
from proper_model.tasks import counted
from simulations.outcome.environment import commit, hardware
from simulations.outcome.results import Document, Hardware, Strict, write_document
from simulations.privacy.egress import witness
from simulations.privacy.egress.canaries import Canary, never_planted
from simulations.privacy.egress.cast import make_cast
from simulations.privacy.egress.federation_run import run_federation
from simulations.privacy.egress.person_run import run_client
from simulations.privacy.egress.scanned_run import ScannedRun
from simulations.privacy.egress.scanner import Finding, Scan, Scanner

RESULT_FILE = "egress.json"
ELSEWHERE, INSIDE = "elsewhere", "inside"
MOST_PLACES = 100  # of one canary in one form, so that a leak in every file does not fill the disk


class Leak(Strict):
    """A canary in one form, where it must not be; `places` are at most the first hundred."""

    canary: str
    owner: str
    form: str
    times: int = Field(ge=1)
    places: list[str]


class Meant(Strict):
    """One entry of the allow-list, and how often a canary stood there."""

    place: str
    owner: str
    reason: str
    times: int = Field(ge=0)


class Part(Strict):
    """One run that was scanned.

    Attributes:
        false_alarms: marks that were planted nowhere, and found all the same.
        never_found: marks that were planted and not found; places that hold none and surely must.
    """

    name: str
    canaries: int = Field(ge=0)
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)
    leaks: list[Leak]
    false_alarms: list[Leak]
    meant: list[Meant]
    never_found: list[str]
    incomplete: list[str]
    network: int = Field(ge=0)
    told: dict[str, int]

    @property
    def clean(self) -> bool:
        """Nothing leaked, and the scan could have seen it."""
        return not (self.leaks or self.unsure or self.network)

    @property
    def unsure(self) -> int:
        """How much there is that makes the scan say nothing."""
        return len(self.false_alarms) + len(self.never_found) + len(self.incomplete)


class EgressResult(Document):
    """The file that `proper-sim privacy egress` leaves. `sentence` is for a record of processing."""

    seed: int
    commit: str
    hardware: Hardware
    parts: list[Part] = Field(min_length=1)
    sentence: str

    @property
    def clean(self) -> bool:
        return all(part.clean for part in self.parts)


def egress(out: Path, *, seed: int = 0, progress: Progress = silent) -> EgressResult:
    """Run both, scan both, and write `out/egress.json`; what was scanned stays beside it.

    Args:
        out: a new folder.
        seed: of the people and of training; canaries are drawn from the system's entropy.

    Raises StorageError if `out` is in use, SimulationError if a run failed.
    """
    out = out.absolute()  # what is scanned runs in a folder of its own
    check_new(out)
    make_private_folder(out)
    cast = make_cast(seed)
    progress("a federation with canaries", 0, 2)
    federation, release = run_federation(out / "federation", cast)
    progress("one person's commands with canaries", 1, 2)
    client = run_client(out / "client", cast, release)
    progress("looking for canaries", 0, 0)
    parts = [examine(run) for run in (federation, client)]
    result = EgressResult(
        seed=seed,
        commit=commit(),
        hardware=hardware(),
        parts=parts,
        sentence=sentence(parts),
    )
    write_document(result, out / RESULT_FILE)
    return result


def examine(run: ScannedRun, strangers: tuple[Canary, ...] | None = None) -> Part:
    """Scan a run's folder, what it wrote elsewhere, and what must hold canaries as a control.

    Args:
        strangers: canaries that were planted nowhere, drawn anew if not given.
    """
    strangers = never_planted() if strangers is None else strangers
    scanner = Scanner((*run.canaries, *strangers))
    scan = scanner.scan_tree(run.root)
    elsewhere, network = witness.noted(run.notes)
    for path in elsewhere:
        scan.add(_renamed(scanner.scan_tree(path), f"{ELSEWHERE}/"))
    control = Scan()
    for name, data in run.inside.items():
        control.add(scanner.scan_bytes(data, f"{INSIDE}/{name}"))
    nobodys = {stranger.owner for stranger in strangers}
    meant: Counter[int] = Counter()
    leaked, alarms = [], []
    for finding in scan.findings:
        rule = next((n for n, rule in enumerate(run.allowed) if rule.covers(finding)), None)
        if finding.owner in nobodys:
            alarms.append(finding)
        elif rule is None:
            leaked.append(finding)
        else:
            meant[rule] += 1
    seen = {(f.owner, f.canary) for f in (*scan.findings, *control.findings)}
    blind = [f"{c.name} of {c.owner}" for c in run.canaries if (c.owner, c.name) not in seen]
    empty = [r.place for n, r in enumerate(run.allowed) if r.surely and not meant[n]]
    return Part(
        name=run.name,
        canaries=len(run.canaries),
        files=scan.files,
        bytes=scan.bytes,
        leaks=leaks(leaked),
        false_alarms=leaks(alarms),
        meant=[
            Meant(place=rule.place, owner=rule.owner, reason=rule.reason, times=meant[number])
            for number, rule in enumerate(run.allowed)
        ],
        never_found=[*blind, *empty],
        incomplete=scan.incomplete,
        network=network,
        told=dict(run.told),
    )


def _renamed(scan: Scan, before: str) -> Scan:
    findings = [
        Finding(before + f.place, f.canary, f.owner, f.form, f.offset) for f in scan.findings
    ]
    return Scan(findings, scan.files, scan.bytes, [before + told for told in scan.incomplete])


def leaks(findings: Iterable[Finding]) -> list[Leak]:
    """Findings of the same canary in the same form as one."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for finding in sorted(findings):
        key = (finding.owner, finding.canary, finding.form)
        places.setdefault(key, []).append(f"{finding.place} at {finding.offset}")
    return [
        Leak(canary=canary, owner=owner, form=form, times=len(at), places=at[:MOST_PLACES])
        for (owner, canary, form), at in places.items()
    ]


def sentence(parts: Iterable[Part]) -> str:
    """What was found, for somebody who keeps a record of processing."""
    parts = list(parts)
    canaries, files = sum(p.canaries for p in parts), sum(p.files for p in parts)
    looked = (
        f"{counted(canaries, 'secret mark')} in histories, answers, ids, paths, passphrases and "
        f"trained numbers were looked for in {counted(files, 'file')} that a federation and one "
        "person's use of the program left, messages and removed files included"
    )
    unsure = sum(p.unsure for p in parts)
    leaked = sum(leak.times for p in parts for leak in p.leaks)
    reached = sum(p.network for p in parts)
    if leaked or reached:
        found = f"they were found {counted(leaked, 'time')} where they must not be"
        found += f", and a network was reached for {counted(reached, 'time')}" if reached else ""
    elif unsure:
        found = f"the search says nothing, because {counted(unsure, 'mark or file')} escaped it"
    else:
        found = "none was found outside of the places that are meant to hold it"
    return f"{looked}; {found}."
