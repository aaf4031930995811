"""Write constraints.txt, -cuda, -privacy and -front-end: every distribution, its version, its hashes.

    python .ci/lock.py [--upgrade] [--wheel FILE]...

uv resolves pyproject.toml for all systems and says which files each version has. Kept are the
wheels for CPython 3.11 to 3.13 on Linux (x86-64 and arm64, glibc) and macOS (arm64), and the source
archive where there is no wheel at all. Versions stay as they are unless pyproject.toml excludes them or `--upgrade` is given.

torch is built twice under one version: for CPUs alone, by PyTorch's own index, and with CUDA, by
the package index. `--wheel FILE` adds the hash of a build that the package index does not have;
hashes of an unchanged torch stay from one time to the next. What only the CUDA build needs goes
into the second file. The accountant of privacy and the chat front end that tests drive have
environments of their own and so the other files.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from pins import APART, PINNED, PINNED_CUDA, ROOT, Pin, declared, read_pins

MINORS = (11, 12, 13)
PURE = ("py3", "py2.py3", *(f"py3{minor}" for minor in MINORS))
SYSTEMS = (
    ("linux", "Linux", "x86_64"),
    ("linux", "Linux", "aarch64"),
    ("darwin", "Darwin", "arm64"),
)
# These and their like are what torch's CUDA build asks for.
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")
HEAD = """\
# The exact set PROPER is developed and tested with (Linux, CPython 3.11), each with the SHA-256 of
# the files that may be installed (Linux, macOS; CPython 3.11 to 3.13). Written by `make lock`, installed by `make install`;
# pyproject.toml holds the ranges. torch's builds for CPUs and for CUDA bear one version: whichever of
# them pip is pointed at is taken, and nothing else.
"""
HEAD_CUDA = """\
# What torch's CUDA build loads, installed after constraints.txt where that build was taken.
"""
HEADS_APART = {
    "privacy": """\
# The accountant of user-level privacy and what it needs, for an environment of its own: `make accountant`.
""",
    "front-end": """\
# A chat front end that a test has talk to `proper serve`, for an environment of its own: `make front-end`.
""",
}
# Gradio takes a package on 3.13 that no earlier Python has a file of.
MINORS_APART = {"privacy": MINORS, "front-end": (11, 12)}


def still_allowed(known: dict[str, Pin], *, apart: str | None = None) -> dict[str, Pin]:
    """The pins that pyproject.toml has not excluded since they were written."""
    asked: dict[str, SpecifierSet] = {}
    for requirement in declared(apart=apart):
        name = canonicalize_name(requirement.name)
        asked[name] = asked.get(name, SpecifierSet()) & requirement.specifier
    return {
        name: pin
        for name, pin in known.items()
        if pin.version in asked.get(canonicalize_name(name), SpecifierSet())
    }


def resolve(previous: dict[str, Pin], *, apart: str | None = None) -> list[dict[str, Any]]:
    """uv's answer for every system, as the packages of a pylock.toml (PEP 751)."""
    with tempfile.TemporaryDirectory() as folder:
        source = ["pyproject.toml", "--extra", "dev"]
        if apart is not None:
            asked = Path(folder) / f"{apart}.in"
            asked.write_text("".join(f"{requirement}\n" for requirement in declared(apart=apart)))
            source = [str(asked), "--fork-strategy", "fewest"]  # one version for all interpreters
        constraints, lock = Path(folder) / "constraints.txt", Path(folder) / "pylock.toml"
        constraints.write_text("".join(f"{p.name}=={p.version}\n" for p in previous.values()))
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", *source),
                *("--universal", "--python-version", "3.11", "--no-config", "--quiet"),
                *("--constraint", str(constraints), "--format", "pylock.toml", "-o", str(lock)),
            ],
            cwd=ROOT,
            check=True,
        )
        return list(tomllib.loads(lock.read_text())["packages"])


def is_needed(package: dict[str, Any], minors: Sequence[int] = MINORS) -> bool:
    """Whether one of these interpreters, 3.x, takes it on one of our systems."""
    marker = package.get("marker")
    return marker is None or any(
        Marker(marker).evaluate(
            {
                "python_version": f"3.{minor}",
                "python_full_version": f"3.{minor}.7",
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
                "sys_platform": platform,
                "platform_system": system,
                "os_name": "posix",
                "platform_machine": machine,
            }
        )
        for minor in minors
        for platform, system, machine in SYSTEMS
    )


def fits(filename: str) -> bool:
    """Whether a wheel installs with one of our interpreters on one of our systems."""
    for tag in parse_wheel_filename(filename)[3]:
        minor = int(tag.interpreter[3:]) if tag.interpreter.startswith("cp3") else None
        own = minor in MINORS and tag.abi in (tag.interpreter, "abi3", "none")
        stable = minor is not None and minor <= max(MINORS) and tag.abi == "abi3"
        if not own and not stable and tag.interpreter not in PURE:
            continue
        linux = tag.platform.startswith(("manylinux", "linux_"))
        if (
            tag.platform == "any"
            or (linux and tag.platform.endswith(("_x86_64", "_aarch64")))
            or (
                tag.platform.startswith("macosx")
                and tag.platform.endswith(("_arm64", "_universal2"))
            )
        ):
            return True
    return False


def pin_of(package: dict[str, Any]) -> Pin:
    """The pin of one package of uv's answer. Raises ValueError if it has no file for us."""
    hashes = [
        wheel["hashes"]["sha256"]
        for wheel in package.get("wheels", [])
        if fits(wheel.get("name") or wheel["url"].rsplit("/", 1)[1])
    ]
    if not hashes and "sdist" in package:
        hashes = [package["sdist"]["hashes"]["sha256"]]
    if not hashes:
        raise ValueError(f"{package['name']} {package['version']}: no file for our systems")
    return Pin(package["name"], Version(package["version"]), tuple(sorted(hashes)))


def with_builds(pin: Pin, previous: Pin | None, wheels: list[Path]) -> Pin:
    """The same with the hashes of builds from elsewhere: those named now, and those known before."""
    hashes = set(pin.hashes)
    if previous is not None and previous.version == pin.version:
        hashes |= set(previous.hashes)
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        if (name, version.public) != (canonicalize_name(pin.name), str(pin.version)):
            raise ValueError(f"{wheel.name}: expected a wheel of {pin.name} {pin.version}")
        with wheel.open("rb") as file:
            hashes.add(hashlib.file_digest(file, "sha256").hexdigest())
    return Pin(pin.name, pin.version, tuple(sorted(hashes)))


def write_apart(extra: str, *, upgrade: bool) -> None:
    """Write the pins of an extra that has an environment of its own."""
    path = APART[extra]
    known = read_pins(path) if path.exists() else {}
    packages = resolve({} if upgrade else still_allowed(known, apart=extra), apart=extra)
    needed = (pin_of(p) for p in packages if is_needed(p, MINORS_APART[extra]))
    pins = sorted(needed, key=lambda pin: pin.name)
    path.write_text(HEADS_APART[extra] + "".join(map(str, pins)))
    print(f"{path.name}: {len(pins)} distributions")


def main() -> None:
    """Resolve, choose the files, write both."""
    parser = argparse.ArgumentParser(description="Pin every dependency with its hashes.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parser.add_argument("--wheel", type=Path, action="append", default=[], help="a build of torch")
    options = parser.parse_args()
    known = read_pins(PINNED) | read_pins(PINNED_CUDA)
    for extra in APART:
        write_apart(extra, upgrade=options.upgrade)
    packages = [p for p in resolve({} if options.upgrade else still_allowed(known)) if is_needed(p)]
    pins = [pin_of(package) for package in packages]
    for path, head, cuda in ((PINNED, HEAD, False), (PINNED_CUDA, HEAD_CUDA, True)):
        chosen = [pin for pin in pins if pin.name.startswith(CUDA_PREFIXES) == cuda]
        lines = [
            str(with_builds(pin, known.get("torch"), options.wheel) if pin.name == "torch" else pin)
            for pin in sorted(chosen, key=lambda pin: pin.name)
        ]
        path.write_text(head + "".join(lines))
        print(f"{path.name}: {len(lines)} distributions")


if __name__ == "__main__":
    main()
