"""A base that cannot be used is refused before anything starts, by file and with a next step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from federation import make_base
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoModelForCausalLM, CLIPConfig, Phi3Config

from proper_model.checks import base as base_check
from proper_model.checks import publishable
from proper_model.checks.base import check_base, locate
from proper_model.errors import BaseModelError, ConfigError
from proper_model.settings.shipped_profiles import load_profile
from simulations.setup.costs import plan_costs
from simulations.setup.options import RunOptions
from simulations.setup.prepare import prepare

TINY = load_profile("demo")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("good"))


@pytest.fixture
def base(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "base"))


def refusal(base: Path | str) -> BaseModelError:
    with pytest.raises(BaseModelError) as caught:
        check_base(str(base), TINY)
    assert caught.value.hint
    assert caught.value.exit_code == 15
    return caught.value


def settings_of(base: Path, **changes: object) -> None:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_good_base_passes_and_says_what_it_is(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check_base(str(base), TINY)
    model = AutoModelForCausalLM.from_pretrained(base)
    # What was read once is not read again.
    monkeypatch.setattr(base_check, "read_tokenizer", None)
    monkeypatch.setattr(base_check, "empty_model", None)
    assert found.folder == base
    assert found.shape.numbers == sum(p.numel() for p in model.parameters())
    assert sorted(found.stored_shape.linears) == sorted(found.shape.linears)
    assert found.stored_shape.rest == found.shape.rest
    sizes = model.config.num_hidden_layers, model.config.hidden_size, model.config.intermediate_size
    assert (found.layers, found.hidden, found.ffn) == sizes
    assert len(found.tokenizer) == model.config.vocab_size
    assert found.is_embedded


def test_a_fused_feed_forward_is_found_in_the_configuration(base: Path) -> None:
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "pad_token_id": 0}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    Phi3Config(**sizes, **heads).save_pretrained(base)
    found = refusal(base)
    assert "config.json: the base fuses gate and up" in found.message
    assert str(base) in found.message


@pytest.mark.parametrize("length", [0, 7, 8, 200, -1])
def test_truncated_weights_are_found_by_their_header(base: Path, length: int) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "model.safetensors" in refusal(base).message


@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\n" * 4, b"\2" + bytes(7) + b"[]" + bytes(9)],
)
def test_what_is_no_safetensors_file_is_refused(base: Path, content: bytes) -> None:
    (base / "model.safetensors").write_bytes(content)
    found = refusal(base)
    assert "not a whole safetensors file" in found.message
    assert "git-lfs" in (found.hint or "")


def test_bytes_behind_the_weights_are_refused(base: Path) -> None:
    path = base / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"x")
    assert f"has {size + 1} bytes, its header says {size}" in refusal(base).message


def test_every_part_of_sharded_weights_is_looked_at(base: Path) -> None:
    whole = base / "model.safetensors"
    parts = [base / f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for part in parts:
        shutil.copy(whole, part)
    whole.unlink()
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": parts[0].name, "b": parts[1].name}}))
    check_base(str(base), TINY)
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    assert parts[1].name in refusal(base).message
    parts[1].unlink()
    assert f"names {parts[1].name}, which is not there" in refusal(base).message
    index.write_text("{")
    assert "index.json is damaged" in refusal(base).message


def test_pickled_weights_alone_are_refused(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    found = refusal(base)
    assert "neither model.safetensors nor" in found.message
    assert "convert" in (found.hint or "")


def test_no_tokenizer_a_broken_one_and_one_that_cannot_end(base: Path) -> None:
    path = base / "tokenizer_config.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"})
    )
    assert "no end-of-sequence token" in refusal(base).message
    (base / "tokenizer.json").write_text("{}")
    assert "the tokenizer cannot be loaded" in refusal(base).message
    for file in base.glob("*token*"):
        file.unlink()
    found = refusal(base)
    assert "the tokenizer cannot be loaded" in found.message
    assert "tokenizer.json" in (found.hint or "")


def test_configurations_that_are_none(base: Path) -> None:
    settings_of(base, hidden_size="wide")
    assert "config.json cannot be read" in refusal(base).message
    (base / "config.json").write_text('{"model_type":')
    assert "config.json cannot be read" in refusal(base).message
    CLIPConfig().save_pretrained(base)
    assert "type 'clip' cannot be built as a causal language model" in refusal(base).message
    (base / "config.json").unlink()
    assert "has no config.json" in refusal(base).message


def test_a_rank_above_the_width_is_refused(base: Path) -> None:
    width = json.loads((base / "config.json").read_text())["hidden_size"]
    population = replace(TINY.population, rank=width + 1)
    with pytest.raises(ConfigError, match=f"rank is {width + 1}, above the width {width} "):
        check_base(str(base), replace(TINY, population=population))


def test_names_that_are_no_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HfApi, "model_info")  # none of these may ask the hub
    for name in ("./none", "/no/where", "a/b/c", "", " ", "my base", "~/none"):
        assert f"base '{name}': no such folder" in refusal(name).message
    assert "is a file" in refusal(base / "config.json").message


def test_a_hub_id_is_asked_for_once_and_the_network_is_blamed_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def hub(error: Exception | None, files: tuple[str, ...] = ()) -> None:
        def model_info(_: HfApi, name: str, **__: object) -> SimpleNamespace:
            asked.append(name)
            if error is not None:
                raise error
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=f) for f in files])

        monkeypatch.setattr(HfApi, "model_info", model_info)

    hub(ConnectionError())
    found = refusal("no/such-model")
    assert "neither a local folder nor complete in the hub's local cache" in found.message
    assert "hf download no/such-model" in (found.hint or "")
    assert asked == ["no/such-model"]
    hub(RepositoryNotFoundError.__new__(RepositoryNotFoundError))
    assert "nor a model that the hub shows you" in refusal("no/such-model").message
    hub(None, ("config.json", "pytorch_model.bin"))
    assert "neither model.safetensors nor" in refusal("no/such-model").message
    hub(None, ("config.json", "model.safetensors"))
    assert locate("no/such-model") == "no/such-model"


def test_a_cached_hub_id_needs_no_network(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HfApi, "model_info")
    monkeypatch.setattr(base_check, "base_folder", lambda _: base)
    assert locate("org/model") == str(base)
    check_base("org/model", TINY)


def test_prepare_and_plan_look_before_they_touch_anything(base: Path, tmp_path: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "user_others.json").write_text("[")  # not even read
    options = RunOptions(
        data=str(tmp_path), out=tmp_path / "out", task="LaMP_3", base=str(base), profile="demo"
    )
    (run,) = options.runs()
    for start, asked in ((prepare, run), (plan_costs, options)):
        with pytest.raises(BaseModelError, match=r"model\.safetensors"):
            start(asked, lambda *_: None)
    assert not options.out.exists()


def test_a_type_that_devices_refuse_is_refused_before_training(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_base(str(base), TINY)
    monkeypatch.setattr(publishable, "MODEL_TYPES", frozenset({"qwen2"}))
    assert "of type 'llama'" in refusal(base).message
