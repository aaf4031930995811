"""Hold the pins, the ranges and this environment against known holes: exit code 1 if one applies.

The holes stand in advisories.json, a dated snapshot, because no audit may need a network. Where
pip-audit is installed and its service answers, `pip-audit --require-hashes -r constraints.txt` is
the newer word.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pins import APART, PINNED, PINNED_CUDA, declared, read_pins

SNAPSHOT = Path(__file__).with_name("advisories.json")


@dataclass(frozen=True)
class Advisory:
    """A hole of versions from `introduced` up to, not including, `fixed` (None: no fix is named)."""

    package: str
    id: str
    introduced: Version
    fixed: Version | None
    summary: str
    source: str
    accepted: str | None = None

    def hits(self, version: Version) -> bool:
        """Whether a version has it."""
        return self.introduced <= version and (self.fixed is None or version < self.fixed)

    def hits_range(self, requirement: Requirement) -> bool:
        """Whether a requirement admits a version that has it, seen from where its range begins."""
        floor = lower_bound(requirement)
        first = self.introduced if floor is None else max(floor, self.introduced)
        return self.hits(first) and requirement.specifier.contains(first, prereleases=True)


def lower_bound(requirement: Requirement) -> Version | None:
    """The smallest version that a requirement names, None if it names none."""
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    return max(bounds, default=None)


def read_advisories(path: Path = SNAPSHOT) -> list[Advisory]:
    """The snapshot. Raises ValueError for a hole without a fix that nobody has accepted."""
    found = []
    for entry in json.loads(path.read_text())["advisories"]:
        fixed = None if entry["fixed"] is None else Version(entry["fixed"])
        if fixed is None and not entry.get("accepted"):
            raise ValueError(f"{entry['id']}: has no fixed version and no word why it may stay")
        versions = {"introduced": Version(entry["introduced"]), "fixed": fixed}
        found.append(Advisory(**{**entry, **versions}))
    return found


def findings(
    advisories: Iterable[Advisory],
    versions: Iterable[tuple[str, Version]],
    requirements: Iterable[Requirement],
) -> list[str]:
    """A line for every version and every range that an open hole applies to."""
    by_name: dict[str, list[Advisory]] = {}
    for advisory in advisories:
        if advisory.accepted is None:
            by_name.setdefault(canonicalize_name(advisory.package), []).append(advisory)
    found = [
        f"{name} {version}: {advisory.id}, {_told(advisory)}"
        for name, version in versions
        for advisory in by_name.get(canonicalize_name(name), [])
        if advisory.hits(version)
    ]
    for requirement in requirements:
        if lower_bound(requirement) is None:
            found.append(f"{requirement}: a range without a beginning admits every known hole")
        found += [
            f"{requirement}: admits {advisory.id}, {_told(advisory)}"
            for advisory in by_name.get(canonicalize_name(requirement.name), [])
            if advisory.hits_range(requirement)
        ]
    return found


def installed() -> list[tuple[str, Version]]:
    """Every distribution of this environment."""
    return [
        (distribution.name, Version(distribution.version))
        for distribution in importlib.metadata.distributions()
    ]


def _told(advisory: Advisory) -> str:
    return f"fixed in {advisory.fixed} ({advisory.summary})"


def main() -> None:
    """Print what was looked at and what was found."""
    snapshot = json.loads(SNAPSHOT.read_text())["snapshot"]
    advisories = read_advisories()
    pins = [
        pin for path in (PINNED, PINNED_CUDA, *APART.values()) for pin in read_pins(path).values()
    ]
    versions = [(pin.name, pin.version) for pin in pins]
    here = installed()
    requirements = [*declared(), *(one for extra in APART for one in declared(apart=extra))]
    listed = set(findings(advisories, versions, requirements))
    strays = set(findings(advisories, here, [])) - listed
    found = [
        *sorted(listed),
        *(
            f"{finding}; in this environment: `make distclean install` makes it anew"
            for finding in sorted(strays)
        ),
    ]
    for advisory in advisories:
        if advisory.accepted is not None:
            print(f"accepted: {advisory.package}: {advisory.id}: {advisory.accepted}")
    print(
        f"{len(advisories)} advisories of {snapshot} against {len(versions)} pins, {len(here)} "
        f"installed distributions and {len(requirements)} ranges: {len(found)} findings"
    )
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
