"""Exported folders: loadable as their README says, private, whole or absent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from client.export import folder as export
from client.export.folder import write_peft
from client.export.formats import base_dtype
from client.export.request import BaseBeside, Request
from proper_model.base.quantized import quantize_base
from proper_model.errors import ExportError, StorageError
from proper_model.export import merged_model
from proper_model.export.merged_model import merged_weights, stored_dtype
from proper_model.export.user_fold import fold_release
from proper_model.release.contents import Release
from proper_model.settings.profile import BaseWeights
from proper_model.storage import new_folder as new_folder_module
from proper_model.storage.new_folder import new_folder
from tests.exports import (
    BUNDLE,
    PUBLIC,
    USER,
    Write,
    gguf_of,
    installed,
    logits_of,
    merged_of,
    mlx_of,
    noisy_release,
    our_logits,
    own_items,
    peft_of,
    public_base,
    release_and_user,
    user_tensors,
)
from tests.tiny import tiny_base, words

ITEMS = own_items()
ALL = pytest.mark.parametrize("write", [peft_of, merged_of, gguf_of, mlx_of])


def run_readme(folder: Path, **places: str) -> Any:
    """The model that the README's own Python loads, its placeholders filled in."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    for name, place in places.items():
        assert name in code
        code = code.replace(name, place)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["tokenizer"].eos_token_id is not None
    return names["model"]


def agrees(model: Any, release: Release, tensors: Mapping[str, Tensor], atol: float) -> bool:
    return all(
        torch.allclose(logits_of(model, item), our_logits(release, tensors, item), atol=atol)
        for item in ITEMS
    )


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield path, path.read_bytes()


def test_the_adapter_loads_over_the_bundles_base_as_its_readme_says_or_from_beside_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bundles" / BUNDLE
    place.mkdir(parents=True)
    release = installed(noisy_release(), place)
    release.tokenizer.save_pretrained(place / "tokenizer")
    tensors = user_tensors(release)
    done = peft_of(tmp_path / "out", release, tensors)
    assert (done.rank, done.natural_rank, done.report) == (32, 24, None)
    assert done.size_bytes == sum(len(data) for _, data in contents(tmp_path / "out"))
    model = run_readme(tmp_path / "out", BUNDLE=str(place), ADAPTER=str(tmp_path / "out"))
    assert agrees(model, release, tensors, 1e-5)
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "rank of 24" in readme
    assert "--with-base" in readme
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"./{BUNDLE}/base"
    monkeypatch.chdir(tmp_path / "bundles")
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert agrees(model, release, tensors, 1e-5)


def test_the_adapter_loads_as_its_readme_says_over_the_public_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public_base(tmp_path)
    release = installed(noisy_release(referenced=True), tmp_path)
    tensors = user_tensors(release)
    peft_of(tmp_path / "out", release, tensors)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert f"vllm serve {PUBLIC.name} --revision {PUBLIC.revision} --enable-lora" in readme
    assert "--max-lora-rank 32" in readme
    revision = f', revision="{PUBLIC.revision}"'
    places = {f'"{PUBLIC.name}"{revision}': repr(str(tmp_path / "base"))}
    model = run_readme(tmp_path / "out", **places, ADAPTER=str(tmp_path / "out"))
    assert agrees(model, release, tensors, 1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (PUBLIC.name, PUBLIC.revision)


def beside_of(folder: Path, referenced: bool) -> BaseBeside:
    """The base of `folder / "base"` as `--with-base` has it."""
    assert referenced == (folder / "base" / "tokenizer.json").exists()
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    return BaseBeside(base, words(), torch.float32)


@pytest.mark.parametrize("referenced", [False, True])
def test_auto_peft_loads_an_adapter_with_its_base_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, referenced: bool
) -> None:
    if referenced:
        public_base(tmp_path)
    release = installed(noisy_release(referenced=referenced), tmp_path)
    tensors = user_tensors(release)
    monkeypatch.chdir(tmp_path)
    peft_of(Path("out"), release, tensors, beside=beside_of(tmp_path, referenced))
    elsewhere = tmp_path / "else where & 'there'"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert agrees(model, release, tensors, 1e-5)
    assert not agrees(model.unload(), release, tensors, 0.05)
    assert AutoTokenizer.from_pretrained("../out/base")("w3 w5") == release.tokenizer("w3 w5")
    assert (tmp_path / "out" / "base").stat().st_mode & 0o777 == 0o700
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert modes == {0o600}
    # Moved, and mended as the README says; the README's own Python needs no mending.
    (tmp_path / "out").rename(elsewhere / "moved")
    with pytest.raises(OSError, match="out/base"):
        AutoPeftModelForCausalLM.from_pretrained("moved")
    assert agrees(run_readme(Path("moved"), ADAPTER="moved"), release, tensors, 1e-5)
    readme = Path("moved", "README.md").read_text()
    (mend,) = re.findall(r"```bash\n(cd ADAPTER && .*?)```", readme, re.DOTALL)
    mend = mend.replace("ADAPTER", "moved").replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-c", mend], check=True)
    model = AutoPeftModelForCausalLM.from_pretrained("moved")
    assert agrees(model, release, tensors, 1e-5)


def test_auto_peft_finds_a_public_base_by_its_name_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's local cache stands for the hub; its newest revision is another model."""
    cache = tmp_path / "hub" / f"models--{PUBLIC.name.replace('/', '--')}"
    for seed, revision in enumerate((PUBLIC.revision, "f" * 40)):
        public_base(cache / "snapshots").rename(cache / "snapshots" / revision)
        tiny_base(dtype=torch.float32, seed=seed).save_pretrained(cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("f" * 40)
    release, tensors = release_and_user(referenced=True)
    peft_of(tmp_path / "out", release, tensors)
    monkeypatch.chdir("/")
    model = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path / "out", cache_dir=tmp_path / "hub", local_files_only=True
    )
    assert agrees(model, release, tensors, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_is_stored_as_its_base_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tied: bool
) -> None:
    base = tiny_base(dtype=torch.float32, vocab_size=512, tie_word_embeddings=tied)
    base.to(dtype).save_pretrained(tmp_path / "base")
    stored = stored_dtype((tmp_path / "base").glob("*.safetensors"))
    assert stored is dtype
    release = noisy_release(base=base.float())  # as it is held to compute
    tensors = user_tensors(release)
    merged_of(tmp_path / "out", release, tensors, dtype=stored)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("base", "out")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == str(dtype).removeprefix("torch.")
    fold = fold_release(release, tensors)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118 - no mapping
        for path, (a, b) in fold.factors.items():
            exact = release.base.get_submodule(path).weight.double() + b @ a
            assert torch.equal(file.get_tensor(f"{path}.weight"), exact.to(dtype))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype is dtype
    assert agrees(model.float(), release, tensors, 0.01), "rounded weights, computed in float32"
    assert str(dtype).removeprefix("torch.") in (tmp_path / "out" / "README.md").read_text()
    assert release.base.dtype is torch.float32, "the base in memory stays as it was"


def test_the_dtype_of_most_values_counts(tmp_path: Path) -> None:
    """An installed bundle's base in two files, its norms in float32."""
    half, wide = torch.ones(8, 8, dtype=torch.bfloat16), torch.ones(8)
    (tmp_path / "base").mkdir()
    save_file({"a": half, "norm": wide}, tmp_path / "base" / "model-1.safetensors")
    save_file(
        {"b": half, "n": torch.ones(99, dtype=torch.int64)},
        tmp_path / "base" / "model-2.safetensors",
    )
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    bundle: Any = SimpleNamespace(path=tmp_path, manifest=SimpleNamespace(base_reference=None))
    home: Any = None
    assert base_dtype(home, bundle) is torch.bfloat16


def test_a_merged_model_larger_than_a_shard_has_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_model, "SHARD", "10KB")
    release, tensors = release_and_user()
    merged_of(tmp_path / "out", release, tensors, dtype=torch.bfloat16)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert agrees(model.float(), release, tensors, 0.01)


def test_values_that_the_bases_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    release, tensors = release_and_user()
    tensors["lora.model.layers.0.mlp.up_proj.B"] *= 1e6
    with pytest.raises(ExportError, match="float16 cannot") as caught:
        merged_of(tmp_path / "out", release, tensors, dtype=torch.float16)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("referenced", [False, True])
def test_the_merged_model_loads_alone(tmp_path: Path, referenced: bool) -> None:
    public_base(tmp_path)
    release = noisy_release(referenced=referenced)
    before = {name: tensor.clone() for name, tensor in release.base.state_dict().items()}
    tensors = user_tensors(release)
    done = merged_of(tmp_path / "out", release, tensors)
    assert done.size_bytes == sum(len(data) for _, data in contents(tmp_path / "out"))
    assert (done.rank, done.report) == (None, None)
    model = run_readme(tmp_path / "out", MODEL=str(tmp_path / "out"))
    assert agrees(model, release, tensors, 1e-5)
    assert not agrees(release.base, release, tensors, 0.05)
    assert all(torch.equal(before[n], t) for n, t in release.base.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w3 w5") == release.tokenizer("w3 w5")


def test_a_merge_is_rounded_once() -> None:
    """In bfloat16 the sum in float64, cast: not a sum of casts."""
    release = noisy_release()
    fold = fold_release(release, user_tensors(release))
    release.base.to(torch.bfloat16)
    weights = merged_weights(release, fold)
    for path, (a, b) in fold.factors.items():
        old = release.base.get_submodule(path).weight
        assert torch.equal(weights[f"{path}.weight"], (old.double() + b @ a).bfloat16())


@ALL
def test_an_approximate_export_says_so(tmp_path: Path, write: Write) -> None:
    release, tensors = release_and_user("default")
    with pytest.raises(ExportError, match="routes by token"):
        write(tmp_path / "out", release, tensors)
    assert not (tmp_path / "out").exists()
    done = write(tmp_path / "out", release, tensors, approximate=True, samples=ITEMS)
    assert done.report is not None
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Approximate" in readme
    assert f"{done.report.exact_nll:.4f} to {done.report.folded_nll:.4f}" in readme
    write(tmp_path / "exact", noisy_release(), user_tensors(noisy_release()))
    assert "Approximate" not in (tmp_path / "exact" / "README.md").read_text()


@ALL
def test_an_export_of_what_is_answered_mixed_says_that_it_is_stage_three_alone(
    tmp_path: Path, write: Write
) -> None:
    release, tensors = release_and_user()
    done = write(tmp_path / "out", release, tensors, samples=ITEMS, share=(0.3, 1.5))
    assert done.report is not None
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "folded exactly.\n**Approximate.** This is stage 3 alone." in readme
    assert "with weight\n0.3, at temperature 1.5" in readme
    assert f"{done.report.exact_nll:.4f} to {done.report.folded_nll:.4f}" in readme


@ALL
def test_nothing_names_the_user_or_this_machine(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base and tokenizer were loaded by path, and the export is given paths."""
    canary = tmp_path / USER
    canary.mkdir()
    public_base(canary)
    release = installed(noisy_release(referenced=True), canary)
    release.base.config._name_or_path = str(canary / "base")
    write(canary / "out", release, user_tensors(release))
    names = [USER, str(tmp_path), str(Path.home()), os.uname().nodename, tmp_path.name]
    needles = [name.encode(code) for name in names for code in ("utf-8", "utf-16-le")]
    found = [
        (path.name, needle)
        for path, data in contents(canary / "out")
        for needle in needles
        if needle in data
    ]
    assert found == []
    readme = (canary / "out" / "README.md").read_bytes()
    assert b"**Private.**" in readme
    assert BUNDLE.encode() in readme, "the search looks at what was written"


@ALL
def test_files_are_private_whatever_the_umask(tmp_path: Path, write: Write) -> None:
    release = noisy_release()
    before = os.umask(0)
    try:
        write(tmp_path / "out", release, user_tensors(release))
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert {"README.md"} < set(modes)
    assert set(modes.values()) == {0o600}


@ALL
def test_only_a_new_or_empty_folder_is_written(tmp_path: Path, write: Write) -> None:
    release, tensors = release_and_user()
    full, file, link, empty = (tmp_path / n for n in ("full", "file", "link", "empty"))
    full.mkdir()
    (full / "mine").write_text("kept")
    file.write_text("kept")
    empty.mkdir(mode=0o755)
    link.symlink_to(empty)
    for out in (full, file, link):
        with pytest.raises(ExportError, match="something already") as caught:
            write(out, release, tensors)
        assert caught.value.exit_code == 49
    assert (full / "mine").read_text() == file.read_text() == "kept"
    assert list(empty.iterdir()) == []
    write(empty, release, tensors)
    assert (empty / "README.md").is_file()
    assert empty.stat().st_mode & 0o777 == 0o700
    with pytest.raises(StorageError, match="No such file"):
        write(tmp_path / "no" / "such" / "folder", release, tensors)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full", "link"]


@contextmanager
def dying_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> Iterator[None]:
    """The `call`-th call of a function ends the program."""
    real, calls = getattr(owner, name), 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        yield
    assert calls >= call


@ALL
def test_an_interruption_leaves_nothing(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, tensors = release_and_user()
    moments = [(os, "fsync", 1), (os, "fsync", 3), (new_folder_module, "move_folder", 1)]
    if write is merged_of:
        moments += [(type(release.tokenizer), "save_pretrained", 1)]
    elif write is gguf_of:
        gguf = pytest.importorskip("gguf")
        steps = ("header", "kv_data", "tensors")
        moments += [(gguf.GGUFWriter, f"write_{step}_to_file", 1) for step in steps]
    else:
        moments += [(export, "write_atomic", call) for call in (1, 2, 3)]
    for owner, name, call in moments:
        with dying_at(monkeypatch, owner, name, call), pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", release, tensors)
        assert list(tmp_path.iterdir()) == [], (name, call)
    write(tmp_path / "out", release, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_removed_by_the_next_to_the_same_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = tmp_path / ".out.0123456789ab.tmp"
    killed.mkdir()
    (killed / "adapter_model.safetensors").write_bytes(b"private")
    others = [tmp_path / name for name in (".out2.0123456789ab.tmp", ".out.notes.tmp")]
    for other in others:
        other.mkdir()
    pointing = tmp_path / ".out.00000000abcd.tmp"
    pointing.symlink_to(others[0])
    with ExitStack() as stack:
        at_work = stack.enter_context(new_folder(out))  # another export, not killed
        with new_folder(out) as second:
            (second / "file").write_text("x")
        assert at_work.is_dir()
        stack.pop_all().__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert sorted(tmp_path.iterdir()) == sorted([out, pointing, *others])


@pytest.mark.parametrize(("owner", "name"), [(Path, "mkdir"), (os, "open")])
def test_a_folder_that_another_export_took_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    real, calls = getattr(owner, name), 0

    def overtaken(*args: Any, **options: Any) -> Any:
        nonlocal calls
        done = real(*args, **options)
        if (calls := calls + 1) == 1:
            new_folder_module.remove_folder(next(tmp_path.iterdir()))
        return done

    monkeypatch.setattr(owner, name, overtaken)
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("write", [merged_of, gguf_of])
def test_a_full_disk_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    release = noisy_release()
    # The words of safetensors, and numpy's, which has no errno.
    error: Exception = merged_model.SafetensorError("I/O error: No space left (os error 28)")
    owner, name = type(release.base), "save_pretrained"
    if write is gguf_of:
        error = OSError("384 requested and 0 written")
        owner, name = pytest.importorskip("gguf").GGUFWriter, "write_tensors_to_file"

    def full(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "out", release, user_tensors(release))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("write", "way_out"), [(gguf_of, "convert_lora_to_gguf"), (mlx_of, "merged")]
)
def test_a_type_of_model_that_was_not_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, way_out: str
) -> None:
    release = noisy_release()
    monkeypatch.setattr(release.base.config, "model_type", "newest")
    with pytest.raises(ExportError, match="'newest'") as caught:
        write(tmp_path / "out", release, user_tensors(release))
    assert way_out in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_base_is_not_merged_but_gives_an_adapter(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    release, tensors = release_and_user()
    peft_of(tmp_path / "full", release, tensors)
    quantize_base(release.base, BaseWeights.FOUR_BIT)
    object.__setattr__(release.settings, "base_weights", BaseWeights.FOUR_BIT)
    with pytest.raises(ExportError, match="4 or 8 bits") as caught:
        merged_of(tmp_path / "merged", release, tensors)
    assert "peft" in (caught.value.hint or "")
    peft_of(tmp_path / "packed", release, tensors)
    weights = [tmp_path / n / "adapter_model.safetensors" for n in ("full", "packed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "held in 4bit" in (tmp_path / "packed" / "README.md").read_text()


def test_base_and_release_must_agree(tmp_path: Path) -> None:
    for referenced, base in ((False, PUBLIC), (True, None)):
        release = noisy_release(referenced=referenced)
        with pytest.raises(ExportError, match="told otherwise"):
            write_peft(tmp_path / "out", Request(release, user_tensors(release), BUNDLE, base))
    assert not (tmp_path / "out").exists()
