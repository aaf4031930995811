"""What ships: the wheel, Flower's app bundle, the pinned environment.

Flower's default bundle packs every JSON file of a checkout, histories and keys included, and a
second distribution may overwrite our `client`; both failures are silent, hence these tests.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PACKAGES = ("proper_model", "coordinator", "client", "simulations")
FAB_PACKAGES = ("proper_model", "coordinator", "client")
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
CANARY = "canary-of-a-private-history"
# Libraries that a setting needs and others do without: the extra, and the one file that imports it.
OPTIONAL = {
    "bitsandbytes": ("quantized", "proper_model/base/quantized.py"),
    "datasets": ("datasets", "simulations/setup/dataset_rows.py"),
    "dp_accounting": ("privacy", "proper_model/accounting/accountant_program.py"),
    "gguf": ("gguf", "proper_model/base/gguf_header.py"),
    "keyring": ("keyring", "client/vault/keyring_store.py"),
}
PLANTED = (
    "client/user.json",
    "client/history.jsonl",
    "coordinator/keys/signing.key",
    "coordinator/keys/signing.pem",
    "proper_model/tasks/task_files/notes.yaml",
    "runs/demo/devices/7/user.json",
    "people/user_others.json",
    "notes.md",
)


def project_table(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def source_files(repository: Path, packages: tuple[str, ...], *suffixes: str) -> set[str]:
    return {
        path.relative_to(repository).as_posix()
        for package in packages
        for path in (repository / package).rglob("*")
        if path.name.endswith(suffixes) and "__pycache__" not in path.parts
    }


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **OFFLINE, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def app_copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's code, with private-looking files planted where a careless run leaves them."""
    copy = tmp_path_factory.mktemp("checkout") / "app"
    for package in (*PACKAGES, "profiles"):
        shutil.copytree(
            repository / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(repository / name, copy / name)
    for name in PLANTED:
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": CANARY}))
    return copy


@pytest.fixture(scope="module")
def wheel(app_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], app_copy)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def build_fab(app: Path, work: Path) -> zipfile.ZipFile:
    work.mkdir(parents=True, exist_ok=True)
    code = "from flwr.cli.app import app; app()"
    run([sys.executable, "-c", code, "build", "--app", str(app)], work, FLWR_HOME=str(work))
    (path,) = work.glob("*.fab")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def fab(app_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build_fab(app_copy, tmp_path_factory.mktemp("fab"))


def holds_canary(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if CANARY.encode() in archive.read(name)]


def test_wheel_holds_the_four_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    roots = {name.split("/")[0] for name in wheel.namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_holds_every_module_and_its_data(repository: Path, wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    suffixes = (".py", ".toml", ".j2", ".html", ".css", ".js", "py.typed")
    expected = source_files(repository, PACKAGES, *suffixes) | {
        "proper_model/profile_files/" + path.relative_to(repository / "profiles").as_posix()
        for path in (repository / "profiles").rglob("*.toml")
    }
    assert shipped == expected


def test_wheel_carries_licence_and_command(wheel: zipfile.ZipFile) -> None:
    metadata = {
        Path(name).name: wheel.read(name).decode()
        for name in wheel.namelist()
        if ".dist-info/" in name
    }
    assert "Apache License" in metadata["LICENSE"]
    assert "proper-sim = simulations.cli:main" in metadata["entry_points.txt"]
    assert "proper-coordinator = coordinator.cli:main" in metadata["entry_points.txt"]
    assert "Classifier: Private :: Do Not Upload" in metadata["METADATA"]
    assert holds_canary(wheel) == []


def test_an_installed_wheel_finds_its_profiles(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "from proper_model.settings.shipped_profiles import load_profile, profile_folder, profile_names\n"
        "print(profile_folder(), *(load_profile(n).name for n in profile_names()))"
    )
    printed = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert printed[0] == str(tmp_path / "proper_model" / "profile_files")
    assert {"paper-a100", "small-gpu", "tiny"} <= set(printed[1:])


@pytest.mark.full
def test_a_wheel_alone_runs_the_demo(repository: Path, tmp_path: Path) -> None:
    """In an empty environment and folder, without a file of the checkout: what `make wheel-check` runs."""
    said = run([sys.executable, str(repository / ".ci" / "wheel_check.py")], tmp_path)
    assert "the wheel needs nothing of the checkout" in said


def test_fab_holds_the_code_of_three_packages(repository: Path, fab: zipfile.ZipFile) -> None:
    shipped = {name for name in fab.namelist() if not name.startswith(".info/")}
    expected = source_files(repository, FAB_PACKAGES, ".py", ".toml")
    assert shipped - {"pyproject.toml", "LICENSE", "README.md"} == expected
    assert "pyproject.toml" in shipped


def test_fab_holds_no_private_file(fab: zipfile.ZipFile) -> None:
    assert holds_canary(fab) == []
    private = (".json", ".jsonl", ".key", ".pem", ".yaml", ".safetensors")
    assert [name for name in fab.namelist() if name.endswith(private)] == []


def test_without_the_allow_list_a_history_would_ship(app_copy: Path, tmp_path: Path) -> None:
    """The control: the same checkout, Flower's default instead of `fab-include`."""
    app = tmp_path / "app"
    shutil.copytree(app_copy, app)
    text = (app / "pyproject.toml").read_text()
    without, count = re.subn(r"fab-include = \[.*?\]\n", "", text, flags=re.DOTALL)
    assert count == 1
    (app / "pyproject.toml").write_text(without)
    assert "people/user_others.json" in holds_canary(build_fab(app, tmp_path / "out"))


def test_one_distribution_owns_each_package(repository: Path) -> None:
    """No other wheel has put a `client` beside ours or in front of it."""
    owners = importlib.metadata.packages_distributions()
    try:
        importlib.metadata.distribution("proper")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("PROPER is on the path but not installed here")
    site = Path(sysconfig.get_path("purelib"))
    for package in PACKAGES:
        # An editable installation lists no packages, so nobody else may either.
        assert set(owners.get(package, ["proper"])) == {"proper"}
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert Path(str(spec.origin)).parent in (repository / package, site / package)


def third_party_imports(repository: Path, packages: tuple[str, ...]) -> dict[str, list[str]]:
    """Top-level package -> the files that import it."""
    found: dict[str, list[str]] = {}
    for name in sorted(source_files(repository, packages, ".py")):
        for node in ast.walk(ast.parse((repository / name).read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for root in {n.split(".")[0] for n in names}:
                if root not in sys.stdlib_module_names and root not in PACKAGES:
                    found.setdefault(root, []).append(name)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(repository: Path) -> dict[str, Requirement]:
    requirements = map(Requirement, project_table(repository)["project"]["dependencies"])
    return {normal(requirement.name): requirement for requirement in requirements}


def test_every_import_is_a_declared_dependency(repository: Path) -> None:
    distributions = importlib.metadata.packages_distributions()
    missing = {
        root: where
        for root, where in third_party_imports(repository, PACKAGES).items()
        if not {normal(d) for d in distributions.get(root, [root])} & set(declared(repository))
    }
    extras = project_table(repository)["project"]["optional-dependencies"]
    for library, (extra, file) in OPTIONAL.items():
        assert set(missing.pop(library)) == {file}
        assert normal(library) in {normal(Requirement(line).name) for line in extras[extra]}
    # PyTorch's CUDA build requires the version of Triton that it was built with.
    triton = {str(place) for place in missing.pop("triton")}
    assert all("kernels/" in place for place in triton)
    assert missing == {}


def test_tracked_files_are_source(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    listed = run(["git", "ls-files", "-z"], repository).split("\0")
    paths = [repository / name for name in listed if name and (repository / name).is_file()]
    assert paths
    large = [p.name for p in paths if p.stat().st_size > 512 * 1024]
    built = [p.name for p in paths if p.suffix in (".pyc", ".whl", ".fab", ".pem", ".key")]
    assert (large, built) == ([], [])
