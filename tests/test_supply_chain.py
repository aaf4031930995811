"""What is installed: pinned, with hashes, without known holes, listed; nothing unpinned runs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

HASH = "0" * 64


@pytest.fixture(scope="module")
def supply(repository: Path):
    """The modules of .ci, and the pins as they stand."""
    sys.path.insert(0, str(repository / ".ci"))
    try:
        modules = {
            name: importlib.import_module(name) for name in ("pins", "lock", "audit", "sbom")
        }
    finally:
        sys.path.remove(str(repository / ".ci"))
    pins = modules["pins"]
    return SimpleNamespace(
        **modules, pinned=pins.read_pins(pins.PINNED), cuda=pins.read_pins(pins.PINNED_CUDA)
    )


@pytest.fixture(scope="module")
def advisories(supply):
    return supply.audit.read_advisories()


# --- pins and hashes ---------------------------------------------------------------------------


def test_every_range_holds_its_pin(supply) -> None:
    for requirement in supply.pins.declared():
        pin = supply.pinned[canonicalize_name(requirement.name)]
        assert pin.version in requirement.specifier, str(requirement)


def test_the_accountant_is_pinned_apart_with_all_that_it_needs(supply) -> None:
    """It wants an attrs of three years ago, which must hold nothing else back."""
    pinned = supply.pins.read_pins(supply.pins.APART["privacy"])
    (own,) = supply.pins.declared(apart="privacy")
    assert pinned[canonicalize_name(own.name)].version in own.specifier
    assert own.name not in supply.pinned
    assert own not in supply.pins.declared()
    assert pinned["attrs"].version < Version("24")
    assert {"absl-py", "dm-tree", "mpmath", "numpy", "scipy", "wrapt"} <= set(pinned)
    assert all(pin.hashes for pin in pinned.values())


def test_the_front_end_is_pinned_apart_with_all_that_it_needs(supply) -> None:
    """It wants other versions than ours, and nothing of it is installed beside us."""
    pinned = supply.pins.read_pins(supply.pins.APART["front-end"])
    for own in supply.pins.declared(apart="front-end"):
        assert pinned[canonicalize_name(own.name)].version in own.specifier
    assert "gradio" not in supply.pinned
    assert "gradio" not in {own.name for own in supply.pins.declared()}
    assert any(supply.pinned[name].version != pinned[name].version for name in ("typer", "rich"))
    assert {"gradio-client", "openai", "fastapi", "uvicorn"} <= set(pinned)


def test_the_benchmarks_peer_is_pinned_apart_and_takes_our_torch(supply, repository: Path) -> None:
    """Versions of its time stay as they are, and none of them is among ours."""
    pinned = supply.pins.read_pins(repository / "constraints-peer.txt")
    assert str(pinned["moe-peft"].version) == "2.0.2"
    assert pinned["transformers"].version < Version("4.47")
    assert pinned["transformers"].version != supply.pinned["transformers"].version
    assert not {"torch", "triton"} & set(pinned)
    assert "moe-peft" not in supply.pinned
    assert all(pin.hashes for pin in pinned.values())


def requirements_of(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # an extra that this environment lacks


def test_whatever_our_dependencies_ask_for_is_pinned(supply) -> None:
    """Followed through the metadata of what is installed, extras as they are asked for."""
    waiting, seen = list(supply.pins.declared()), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        assert name in supply.pinned, f"{name} is installed but not pinned"
        for line in requirements_of(name):
            wanted = Requirement(line)
            if wanted.marker is None or any(
                wanted.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                waiting.append(wanted)
    assert len({name for name, *_ in seen}) > 100


def test_no_pin_needs_a_later_python_than_the_project(supply, repository: Path) -> None:
    """Debian 12 has 3.11.2. Of what is installed here at its pin."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    looked_at = 0
    for distribution in importlib.metadata.distributions():
        pin = supply.pinned.get(canonicalize_name(distribution.name))
        if pin is not None and pin.version == Version(distribution.version):
            wanted = distribution.metadata.get("Requires-Python") or ""
            assert "3.11.0" in SpecifierSet(wanted), f"{pin.name} {pin.version}: Python {wanted}"
            looked_at += 1
    assert looked_at > 100


def test_a_version_that_its_range_excludes_does_not_stay(supply) -> None:
    pins = {
        name: supply.pins.Pin(name, Version(version), (HASH,))
        for name, version in (("numpy", "1.26"), ("scipy", "1.17.1"), ("six", "0.1"))
    }
    assert set(supply.lock.still_allowed(pins)) == {"scipy", "six"}


def test_one_hash_at_least_for_every_pin_and_no_address(supply, repository: Path) -> None:
    for name in ("constraints.txt", "constraints-cuda.txt"):
        text = (repository / name).read_text()
        assert "://" not in text
        assert "+cpu" not in text, "one file serves every build of torch"
    assert all(pin.hashes for pin in (*supply.pinned.values(), *supply.cuda.values()))
    assert len(supply.pinned) > 100
    assert {"torch", "pip", "setuptools", "lazy-importer"} <= set(supply.pinned)


@pytest.mark.parametrize(
    "line",
    [
        "six==1.0\n",
        "six>=1.0 \\\n    --hash=sha256:" + HASH + "\n",
        "six==1.0 \\\n    --hash=md5:" + HASH + "\n",
        "six==1.0 \\\n    --hash=sha256:" + HASH[1:] + "\n",
        "--extra-index-url https://index.example\n",
        "six @ https://files.example/six.whl\n",
        2 * ("six==1.0 \\\n    --hash=sha256:" + HASH + "\n"),
    ],
)
def test_anything_but_a_pin_with_hashes_is_refused(supply, tmp_path: Path, line: str) -> None:
    good = f"# why\nattrs==2.0 \\\n    --hash=sha256:{HASH}\n"
    path = tmp_path / "constraints.txt"
    path.write_text(good)
    assert str(supply.pins.read_pins(path)["attrs"]) == good.removeprefix("# why\n")
    path.write_text(good + line)
    with pytest.raises(ValueError, match=r"constraints.txt"):
        supply.pins.read_pins(path)


@pytest.mark.parametrize(
    ("wheel", "ours"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp313-cp313-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", True),
        ("a-1-cp38-abi3-manylinux_2_28_x86_64.whl", True),
        ("a-1-py3-none-macosx_11_0_arm64.whl", True),
        ("a-1-cp314-abi3-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp310-cp310-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp311-cp311-win_amd64.whl", False),
        ("a-1-cp313-cp313t-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_17_i686.whl", False),
    ],
)
def test_the_lock_takes_wheels_of_our_systems(supply, wheel: str, ours: bool) -> None:
    assert supply.lock.fits(wheel) is ours


def test_the_lock_takes_a_source_archive_only_where_no_wheel_is(supply) -> None:
    wheel = {"url": "https://x/a-1-py3-none-any.whl", "hashes": {"sha256": "1" * 64}}
    other = {"url": "https://x/a-1-cp311-cp311-win_amd64.whl", "hashes": {"sha256": "2" * 64}}
    package = {"name": "a", "version": "1", "sdist": {"hashes": {"sha256": "3" * 64}}}
    assert supply.lock.pin_of({**package, "wheels": [wheel, other]}).hashes == ("1" * 64,)
    assert supply.lock.pin_of({**package, "wheels": [other]}).hashes == ("3" * 64,)
    del package["sdist"]
    with pytest.raises(ValueError, match="a 1: no file"):
        supply.lock.pin_of({**package, "wheels": [other]})


def test_hashes_of_builds_from_elsewhere_stay_while_the_version_does(supply, tmp_path) -> None:
    wheel = tmp_path / "torch-2.0+cpu-cp311-cp311-linux_x86_64.whl"
    wheel.write_bytes(b"a build")
    built = hashlib.sha256(b"a build").hexdigest()
    pin = supply.pins.Pin
    new, known = (pin("torch", Version("2.0"), (digit * 64,)) for digit in "12")
    merged = supply.lock.with_builds(new, known, [wheel])
    assert set(merged.hashes) == {"1" * 64, "2" * 64, built}
    newer = pin("torch", Version("2.1"), ("1" * 64,))
    assert supply.lock.with_builds(newer, known, []) == newer
    with pytest.raises(ValueError, match="expected a wheel of torch 2.1"):
        supply.lock.with_builds(newer, known, [wheel])


# --- installing --------------------------------------------------------------------------------


def install_commands(repository: Path) -> list[str]:
    """What `make install` would run, without its comments."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/.installed"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace("\\\n", " ").splitlines()


def test_all_that_make_installs_is_held_against_a_hash(repository: Path) -> None:
    installs = [line for line in install_commands(repository) if "pip install" in line]
    assert len(installs) == 5
    *hashed, own = installs
    assert own.endswith("--no-deps --no-build-isolation -e .")
    for line in hashed:
        # No dependency and no build dependency is looked for beside the listed files.
        assert {"--require-hashes", "--no-deps", "--no-build-isolation"} <= set(line.split()), line


def test_what_is_fetched_before_its_hash_is_known_runs_nothing(
    repository: Path, tmp_path: Path
) -> None:
    """pip runs setup.py of a source archive that it only downloads."""
    (line,) = (line for line in install_commands(repository) if "pip download" in line)
    options = line.split("pip download")[1].split("--dest")[0].split()
    source, ran = tmp_path / "torch-2.0", tmp_path / "ran"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0\n")
    (source / "setup.py").write_text(f"open({str(ran)!r}, 'w')")
    with tarfile.open(tmp_path / "torch-2.0.tar.gz", "w:gz") as archive:
        archive.add(source, arcname="torch-2.0")
    offline = ("--no-build-isolation", "--no-index", "--find-links", tmp_path)
    run_pip("download", *options, *offline, "--dest", tmp_path / "out", "torch==2.0")
    assert not ran.exists()


def test_what_people_are_told_to_install_can_be(repository: Path) -> None:
    """A constraints file with hashes forbids `-e .`; our name on the package index is not ours."""
    folders = ("proper_model", "client", "coordinator", "simulations", "benchmarks", "docs")
    code = [path for name in folders for path in (repository / name).rglob("*.py")]
    for path in (*code, *repository.glob("*.md"), *(repository / "docs").rglob("*.md")):
        told = re.search(r"pip install (-c constraints|.?proper\b)", path.read_text())
        assert told is None, path.name


def run_pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_wheel(path: Path, code: bytes) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tiny.py"), code)
        info = b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
        archive.writestr(zipfile.ZipInfo("tiny-1.0.dist-info/METADATA"), info)
        tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(zipfile.ZipInfo("tiny-1.0.dist-info/WHEEL"), tags)
        archive.writestr(zipfile.ZipInfo("tiny-1.0.dist-info/RECORD"), b"")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_tampered_wheel_is_refused(supply, repository: Path, tmp_path: Path) -> None:
    """With the very options of the Makefile, from a folder of wheels, as torch's CPU build comes."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    pin = supply.pins.Pin("tiny", Version("1.0"), (make_wheel(wheel, b"GOOD = True\n"),))
    (tmp_path / "constraints.txt").write_text(str(pin))
    (line,) = (line for line in install_commands(repository) if line.endswith("-r constraints.txt"))
    words = line.replace("--progress-bar off", "").split("pip install")[1].split()
    options = [word for word in words if word.startswith("--")]

    def install(target: str) -> subprocess.CompletedProcess[str]:
        offline = ("--no-index", "--find-links", tmp_path, "--target", tmp_path / target)
        return run_pip("install", *options, *offline, "-r", tmp_path / "constraints.txt")

    assert install("good").returncode == 0
    assert (tmp_path / "good/tiny.py").is_file()
    make_wheel(wheel, b"GOOD = False\n")
    refused = install("bad")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "bad").exists()


# --- known holes -------------------------------------------------------------------------------


def test_no_pin_and_no_range_admits_a_known_hole(supply, advisories) -> None:
    pins = [(p.name, p.version) for p in (*supply.pinned.values(), *supply.cuda.values())]
    assert supply.audit.findings(advisories, pins, supply.pins.declared()) == []


@pytest.mark.parametrize(
    ("package", "last", "first"),
    [
        ("transformers", "5.4.0", "5.5.0"),  # CVE-2026-5241
        ("starlette", "1.0.0", "1.3.1"),  # CVE-2026-48710, and CVE-2026-54283 until 1.3.1
        ("ray", "2.55.1", "2.56.0"),  # CVE-2026-57516
        ("peft", "0.19.1", "0.20.0"),  # adapter_config.json chooses a module
        ("torch", "2.9.1", "2.11.0"),  # CVE-2026-24747
        ("h11", "0.14.0", "0.16.0"),  # CVE-2025-43859
        ("jinja2", "3.1.5", "3.1.6"),  # CVE-2025-27516
        ("urllib3", "2.6.3", "2.7.0"),  # CVE-2026-44431
    ],
)
def test_a_planted_hole_is_found_in_a_pin_and_in_a_range(
    supply, advisories, package: str, last: str, first: str
) -> None:
    findings = supply.audit.findings
    assert findings(advisories, [(package, Version(last))], [])
    assert findings(advisories, [], [Requirement(f"{package}>={last},<99")])
    assert findings(advisories, [], [Requirement(package)]), "no beginning at all"
    assert findings(advisories, [(package, Version(first))], []) == []
    assert findings(advisories, [], [Requirement(f"{package}>={first},<99")]) == []


def test_a_hole_that_opens_inside_a_range_is_found(supply) -> None:
    hole = supply.audit.Advisory("a", "X-1", Version("2.0"), Version("2.2"), "", "")
    findings = supply.audit.findings
    assert findings([hole], [], [Requirement("a>=1.0,<3")])
    assert findings([hole], [], [Requirement("a>=1.0,<2")]) == []
    assert findings([hole], [("A", Version("1.9"))], []) == []


def test_a_hole_without_a_fix_needs_a_word_why_it_may_stay(supply, tmp_path: Path) -> None:
    entry = {"package": "a", "id": "X-1", "introduced": "0", "fixed": None}
    entry |= {"summary": "", "source": ""}
    path = tmp_path / "advisories.json"
    path.write_text(json.dumps({"advisories": [entry]}))
    with pytest.raises(ValueError, match="X-1: has no fixed version"):
        supply.audit.read_advisories(path)


# --- the bill of materials ---------------------------------------------------------------------


def test_the_bill_lists_every_pin_with_hashes_and_licence(supply) -> None:
    pins = supply.pinned | supply.cuda
    bill = supply.sbom.bill_of_materials(pins.values())
    # What CycloneDX 1.6 requires of a document and of a component.
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    uuid = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    assert re.fullmatch(uuid, bill["serialNumber"])
    components = {component["name"]: component for component in bill["components"]}
    assert len(components) == len(bill["components"]) == len(pins)
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(set(references)) == len(references)
    for name, pin in pins.items():
        component = components[name]
        assert component["type"] == "library"
        assert component["purl"] == f"pkg:pypi/{name}@{pin.version}"
        assert {(h["alg"], h["content"]) for h in component["hashes"]} == {
            ("SHA-256", content) for content in pin.hashes
        }
    assert components["torch"]["licenses"]
    licensed = [name for name in supply.pinned if "licenses" in components[name]]
    assert len(licensed) > 0.9 * len(supply.pinned)
    known = {*references, bill["metadata"]["component"]["bom-ref"]}
    for dependency in bill["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= known
    direct = bill["dependencies"][0]["dependsOn"]
    assert {f"pkg:pypi/torch@{supply.pinned['torch'].version}"} <= set(direct)
    assert bill == supply.sbom.bill_of_materials(pins.values()), "the same each time"


# --- what else runs code of others -------------------------------------------------------------


def test_hooks_of_others_are_pinned_to_a_commit(repository: Path) -> None:
    text = (repository / ".pre-commit-config.yaml").read_text()
    repositories = re.findall(r"^  - repo: (\S+)", text, re.MULTILINE)
    foreign = [name for name in repositories if name != "local"]
    revisions = re.findall(r"^    rev: (\S+)", text, re.MULTILINE)
    assert len(revisions) == len(foreign) >= 1
    assert all(re.fullmatch(r"[0-9a-f]{40}", revision) for revision in revisions)


def test_security_md_says_how_to_report(repository: Path) -> None:
    text = (repository / "SECURITY.md").read_text()
    assert "Report a vulnerability" in text
    assert re.search(r"\S+@\S+\.\S+", text) is None, "no address that nobody reads"
    for heading in ("Reporting", "Which versions", "What it promises", "What it does not promise"):
        assert f"## {heading}\n" in text
