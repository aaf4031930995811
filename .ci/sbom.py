"""Write a software bill of materials of PROPER as CycloneDX 1.6 JSON.

    python .ci/sbom.py dist/sbom.cdx.json

It lists every pin with the SHA-256 of each file that may be installed for it, its licence as its own
metadata state it, and what it depends on; the latter two for what is installed in this environment,
so run it in one made by `make install`. Nothing in it depends on the time or the machine. Source:
CycloneDX 1.6, JSON reference.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pins import PINNED, PINNED_CUDA, ROOT, Pin, declared, read_pins

_CLASSIFIER = "License :: OSI Approved :: "
_MAX_LICENCE_NAME = 100  # longer: the whole text stands where a name should
_SPDX = re.compile(r"[A-Za-z0-9.()+ -]+")


def bill_of_materials(pins: Iterable[Pin]) -> dict[str, Any]:
    """The document: PROPER itself, a component a pin, and who needs whom."""
    by_name: dict[str, Pin] = {canonicalize_name(pin.name): pin for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = {
        "type": "application",
        "bom-ref": _purl(project["name"], project["version"]),
        "name": project["name"],
        "version": project["version"],
        "description": project["description"],
        "licenses": [{"license": {"id": project["license"]}}],
    }
    components = [_component(pin) for _, pin in sorted(by_name.items())]
    wanted = {canonicalize_name(requirement.name) for requirement in declared()}
    dependencies = [
        {"ref": own["bom-ref"], "dependsOn": _references(wanted, by_name)},
        *(
            {"ref": _purl(pin.name, str(pin.version)), "dependsOn": _references(needed, by_name)}
            for name, pin in sorted(by_name.items())
            if (needed := _needed(name)) is not None
        ),
    ]
    content = json.dumps([own, components, dependencies], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, content).urn,
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": dependencies,
    }


def _component(pin: Pin) -> dict[str, Any]:
    name, version = canonicalize_name(pin.name), str(pin.version)
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(name, version),
        "name": name,
        "version": version,
        "purl": _purl(name, version),
        "hashes": [{"alg": "SHA-256", "content": content} for content in pin.hashes],
    }
    if licences := _licences(name):
        component["licenses"] = licences
    return component


def _licences(name: str) -> list[dict[str, Any]]:
    """What its metadata say: an SPDX expression, else names; nothing if it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name).json
    except importlib.metadata.PackageNotFoundError:
        return []
    expression = metadata.get("license_expression")
    if isinstance(expression, str) and _SPDX.fullmatch(expression):
        return [{"expression": expression}]
    names = [
        classifier.removeprefix(_CLASSIFIER)
        for classifier in metadata.get("classifier", [])
        if classifier.startswith(_CLASSIFIER)
    ]
    stated = str(metadata.get("license", "")).strip()
    if not names and stated and "\n" not in stated and len(stated) <= _MAX_LICENCE_NAME:
        names = [stated]
    return [{"license": {"name": found}} for found in names]


def _needed(name: str) -> set[str] | None:
    """Names that a distribution asks for here without extras, None if it is not installed."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    requirements = [Requirement(line) for line in lines]
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def _references(names: Iterable[str], by_name: dict[str, Pin]) -> list[str]:
    pins = [by_name[name] for name in sorted(names) if name in by_name]
    return [_purl(pin.name, str(pin.version)) for pin in pins]


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{canonicalize_name(name)}@{version}"


def main() -> None:
    """Write the file named on the command line."""
    target = Path(sys.argv[1])
    pins = (read_pins(PINNED) | read_pins(PINNED_CUDA)).values()
    document = bill_of_materials(pins)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")
    told = sum("licenses" in component for component in document["components"])
    print(f"{target}: {len(document['components'])} components, {told} with a licence")


if __name__ == "__main__":
    main()
