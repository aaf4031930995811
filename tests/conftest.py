"""Fixtures every test may use."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from chromium import Browser
    from keyrings import MemoryKeyring

# A busy machine is no failed test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of pages; skips where there is none."""
    from chromium import Browser, find_chromium

    path = find_chromium()
    if path is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    started = Browser(path, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def axe(repository: Path) -> str:
    """The source of axe-core; skips where `make npm` has not brought it."""
    path = repository / "tests/npm/node_modules/axe-core/axe.min.js"
    if not path.is_file():
        pytest.skip("needs axe-core: make npm")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def script(repository: Path) -> Callable[[str], ModuleType]:
    """Loads a file of the checkout that lies in no package, by its path."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, repository / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real users and the pretrained small base; skips where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the shared data and models beside the checkout")
    return folder


def pytest_sessionstart() -> None:
    """Of what is imported next nothing is garbage: looking through it again and again took seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor is it later: the product asks for a whole collection with every plan of memory."""
    _set_aside()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Nor what tests have imported since, some of it more than all before."""
    if len(sys.modules) > _set_aside.modules + 50:
        _set_aside()


def _set_aside() -> None:
    gc.collect()
    gc.freeze()
    _set_aside.modules = len(sys.modules)  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _cheap_passphrases() -> Iterator[None]:
    """Vaults of these tests spend no time on guessing; `default_cost` itself is in tests/test_vault.py."""
    from vault_samples import CHEAP

    from client.vault import keys_file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_file, "default_cost", lambda: CHEAP)
        yield


@pytest.fixture
def dear_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vaults of this test cost what a person's do."""
    from client.vault import key_derivation, keys_file

    monkeypatch.setattr(keys_file, "default_cost", key_derivation.default_cost)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_flushed() -> Iterator[None]:
    """A sync only asks whether the file is open: the rest takes long, and a power cut alone would tell.

    The order of writing, syncing and renaming is shown on a process of its own, in
    tests/test_vault_faults.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os.fstat(file) and None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _folder_of_small_releases(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One folder for all processes of this run; tests/releases.py trains into it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "small-releases").mkdir(exist_ok=True)
    os.environ["PROPER_TEST_RELEASES"] = str(folder / "small-releases")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_whoever_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The programs read a file of settings and variables; here there are none but a test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        for name in [name for name in os.environ if name.startswith("PROPER_")]:
            if not name.startswith("PROPER_TEST_"):
                patch.delenv(name)
        yield


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    """A keyring in memory, in use."""
    import keyring
    from keyrings import MemoryKeyring

    before, made = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


# Minutes or most of one each: begun last, one of them would keep one worker busy while the others
# have nothing left to do.
LONGEST = (
    "test_planted_truth.py",
    "test_flower_end_to_end.py",
    "test_device_cli.py",
    "test_adaptation.py",
    "test_experiments_measured.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; else as collected."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
