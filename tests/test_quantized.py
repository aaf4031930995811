"""A base in 4 or 8 bits: its codes by hand, gradients, cohorts, memory, the way of a release."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from client.person.adapting import adapt_users
from coordinator.pooled_stages import run_pooled_stages
from proper_model.base.loading import fingerprint
from proper_model.base.population_lora import attach_population, merge_population, population_state
from proper_model.base.quantized import (
    BLOCK,
    QuantizedLinear,
    check_available,
    import_library,
    is_quantized,
    quantize_base,
)
from proper_model.base.sites import find_sites
from proper_model.checks.base import check_base
from proper_model.checks.outside_base import load_base
from proper_model.errors import BaseModelError, ConfigError
from proper_model.kernels.ops import Backend
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release, release_to_files
from proper_model.settings.presets import preset
from proper_model.settings.profile import BaseWeights, PopulationSettings, StageSettings
from proper_model.settings.settings_io import from_mapping, to_mapping
from proper_model.settings.shipped_profiles import load_profile
from proper_model.tasks.task import load_task
from tests import test_cohort
from tests.releases import release_in_memory, small_base, small_users
from tests.test_stages import FAST
from tests.tiny import adapted, batch_of, randomize, samples, stage3_pass, tiny_base

if import_library() is None:
    pytest.skip("bitsandbytes is not installed", allow_module_level=True)

PACKED = (BaseWeights.EIGHT_BIT, BaseWeights.FOUR_BIT)
# QLoRA, arXiv 2305.14314, appendix E.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
EIGHT_BIT_STEPS = 127  # between 0 and a block's magnitude
BATCH = batch_of(samples(3, seed=1), [0, 2, 1])


def linear(d_out: int, d_in: int, *, bias: bool = False, seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(d_in, d_out, bias=bias).requires_grad_(False)


def in_blocks(weight: torch.Tensor) -> torch.Tensor:
    """[blocks, 64], the last one filled up with zeros."""
    flat = weight.flatten()
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)


# Widths that are no multiple of a block are where bitsandbytes' own linear is wrong on a CPU.
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (256, 688), (64, 96), (7, 5), (64, 64)])
def test_weights_are_unpacked_to_the_nearest_code_of_their_block(shape: tuple[int, int]) -> None:
    full = linear(*shape)
    blocks = in_blocks(full.weight)
    magnitudes = blocks.abs().amax(1, keepdim=True)
    four = QuantizedLinear(full, BaseWeights.FOUR_BIT).unpacked(torch.float32)
    distances = (blocks[..., None] / magnitudes[..., None] - torch.tensor(NF4)).abs()
    nearest = torch.tensor(NF4)[distances.argmin(-1)] * magnitudes
    assert torch.allclose(in_blocks(four), nearest, atol=1e-7, rtol=1e-6)
    eight = QuantizedLinear(full, BaseWeights.EIGHT_BIT).unpacked(torch.float32)
    steps = in_blocks(eight) / magnitudes * EIGHT_BIT_STEPS
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    # Its own rounding is off by up to two thousandths of a step.
    assert (steps - blocks / magnitudes * EIGHT_BIT_STEPS).abs().max() < 0.503
    assert (eight - full.weight).abs().max() < (four - full.weight).abs().max()


@pytest.mark.parametrize("weights", PACKED)
@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_product_and_gradient_are_those_of_the_unpacked_weight(
    weights: BaseWeights, leading: tuple[int, ...]
) -> None:
    packed = QuantizedLinear(linear(24, 40, bias=True), weights)
    x = torch.randn(*leading, 40, requires_grad=True)
    cotangent = torch.randn(*leading, 24)
    y = packed(x)
    (dx,) = torch.autograd.grad(y, x, cotangent)
    weight = packed.unpacked(torch.float32)
    assert torch.allclose(y, x @ weight.T + packed.bias, atol=1e-6)
    assert torch.allclose(dx, cotangent @ weight, atol=1e-6)
    y = packed(x)
    y.add_(1)  # what adapters do to it
    assert torch.allclose(torch.autograd.grad(y, x, cotangent)[0], dx)


@pytest.mark.parametrize("weights", PACKED)
def test_a_cast_of_the_model_leaves_the_packed_weights_alone(weights: BaseWeights) -> None:
    packed = QuantizedLinear(linear(24, 40), weights)
    before = packed.unpacked(torch.float32)
    packed.to(torch.bfloat16)
    assert torch.equal(packed.unpacked(torch.float32), before)
    assert torch.equal(packed.unpacked(torch.bfloat16), before.bfloat16())
    assert packed(torch.randn(2, 40, dtype=torch.bfloat16)).dtype is torch.bfloat16


def unpacked_base(packed: Any, plain: Any) -> Any:
    """`plain` with the weights that `packed` computes with."""
    for path, module in packed.named_modules():
        if isinstance(module, QuantizedLinear):
            target = plain.get_submodule(path)
            target.weight.data.copy_(module.unpacked(target.weight.dtype))
    return plain


def over(base: Any, backend: Backend) -> AdaptedModel:
    model = AdaptedModel(
        base, preset("default"), generator=torch.Generator().manual_seed(1), backend=backend
    ).double()
    model.lora = model.new_user_lora([0, 1, 2]).double()
    randomize(model.parameters(), seed=2)
    return model


def losses_of(model: AdaptedModel, batch: Batch = BATCH) -> torch.Tensor:
    """Of every row, by the adapter and embedding of its user, one of three."""
    return model.answer_loss(batch, stage3_pass(model, batch.slots))


def loss_and_gradients(model: AdaptedModel) -> list[torch.Tensor]:
    """Losses of three users' rows, then gradients of adapters, experts and routers."""
    losses = losses_of(model)
    losses.sum().backward()
    return [losses, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("weights", PACKED)
@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_adapted_model_is_that_of_a_plain_base_with_the_unpacked_weights(
    architecture: str, backend: Backend, weights: BaseWeights
) -> None:
    packed = quantize_base(tiny_base(architecture), weights)
    ours = loss_and_gradients(over(packed, backend))
    plain = unpacked_base(packed, tiny_base(architecture))
    theirs = loss_and_gradients(over(plain, Backend.REFERENCE))
    assert len(ours) == len(theirs) > 20
    for a, b in zip(ours, theirs, strict=True):
        # transformers normalizes in float32
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.detach().abs().max()))
    full = loss_and_gradients(over(tiny_base(architecture), backend))
    assert not torch.allclose(ours[0], full[0], atol=1e-6)


def test_a_cohort_over_a_packed_base_equals_every_user_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[AdaptedModel] = []

    def packed(**options: Any) -> AdaptedModel:
        model = adapted(**options)
        quantize_base(model.base, BaseWeights.FOUR_BIT)
        made.append(model)
        return model

    full = test_cohort.cohort([0])
    full.run()
    monkeypatch.setattr(test_cohort, "adapted", packed)
    together = test_cohort.cohort([2, 0, 1], slots=2)
    together.run()
    for number, user in enumerate([2, 0, 1]):
        alone = test_cohort.cohort([user])
        alone.run()
        test_cohort.assert_same(together, number, alone, 0)
    assert all(is_quantized(model.base) for model in made)
    assert together.results[1].losses != pytest.approx(full.results[0].losses, abs=1e-6)


def tensor_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of every tensor a model holds, each storage once."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            sizes[name] = tensor.untyped_storage().nbytes()
    return sizes


@pytest.mark.parametrize(("weights", "bits"), [("8bit", 8), ("4bit", 4)])
def test_memory_of_the_linears_shrinks_and_nothing_else_changes(weights: str, bits: int) -> None:
    base = tiny_base(dtype=torch.float32)
    before = tensor_bytes(base)
    quantize_base(base, BaseWeights(weights))
    after = tensor_bytes(base)
    kept = {name: size for name, size in before.items() if "_proj" not in name}
    assert {name: size for name, size in after.items() if "_proj" not in name} == kept
    assert any("embed" in name for name in kept)
    assert any("lm_head" in name for name in kept)
    numbers = [size // 4 for name, size in before.items() if "_proj" in name]
    assert len(numbers) == 14
    packed = sum(size for name, size in after.items() if "_proj" in name)
    assert packed == sum(n * bits // 8 + 4 * -(-n // BLOCK) for n in numbers)
    assert not any(isinstance(m, torch.nn.Linear) for m in base.model.modules())


@pytest.mark.parametrize("weights", PACKED)
def test_no_unpacked_weight_is_kept_for_the_backward_pass(weights: BaseWeights) -> None:
    full, packed = (
        _floats_kept(over(quantize_base(tiny_base(), chosen), Backend.FUSED))
        for chosen in (BaseWeights.FULL, weights)
    )
    assert packed < full


def _floats_kept(model: AdaptedModel) -> int:
    """Floating-point bytes that autograd keeps for one row's loss, weights included."""
    batch = batch_of(samples(1, seed=1), [0])
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses_of(model, batch)
    return sum(found.values())


def profile(weights: BaseWeights) -> StageSettings:
    return dataclasses.replace(load_profile("tiny"), base_weights=weights)


def test_full_changes_nothing_and_packed_sites_are_found() -> None:
    base = tiny_base()
    before, sites = fingerprint(base), find_sites(base)
    assert fingerprint(quantize_base(base, BaseWeights.FULL)) == before
    assert not is_quantized(base)
    assert find_sites(quantize_base(base, BaseWeights.FOUR_BIT)) == sites
    with pytest.raises(BaseModelError, match="quantized already"):
        quantize_base(base, BaseWeights.EIGHT_BIT)


def test_settings_that_contradict_or_do_not_exist_are_refused() -> None:
    tiny = to_mapping(load_profile("tiny"))
    assert tiny["base_weights"] == "full"
    four = from_mapping(StageSettings, {**tiny, "base_weights": "4bit"}, where="p.toml")
    assert four == profile(BaseWeights.FOUR_BIT)
    with pytest.raises(ConfigError, match=r"base_weights.*'int4'") as caught:
        from_mapping(StageSettings, {**tiny, "base_weights": "int4"}, where="p.toml")
    assert "4bit" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="full, 8bit or 4bit"):
        StageSettings(name="x", base_weights="3bit")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="float64"):
        StageSettings(name="x", dtype="float64", base_weights=BaseWeights.EIGHT_BIT)


def test_a_missing_library_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    check_available(BaseWeights.FULL)
    base = tiny_base()
    before = fingerprint(base)
    with pytest.raises(ConfigError, match="bitsandbytes is not installed") as caught:
        quantize_base(base, BaseWeights.FOUR_BIT)
    assert "quantized" in str(caught.value.hint)
    assert fingerprint(base) == before
    with pytest.raises(ConfigError, match="bitsandbytes is not installed"):
        check_base(str(small_base()), profile(BaseWeights.EIGHT_BIT))


def put_stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str, **others: str) -> None:
    """A bitsandbytes of this code instead of the one that is installed, and other modules."""
    package = folder / "bitsandbytes"
    package.mkdir()
    (package / "functional.py").touch()
    (package / "__init__.py").write_text(code)
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("bitsandbytes", *others):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    "call",
    [
        import_library,
        lambda: attach_population(tiny_base(), PopulationSettings(), seed=0),
        lambda: population_state(torch.nn.Linear(1, 1)),
        lambda: merge_population(tiny_base(), PopulationSettings(), {}),
    ],
)
def test_whoever_imports_bitsandbytes_first_keeps_kernels_of_the_hub_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> None:
    """PEFT imports bitsandbytes, which would import `kernels`; a stand-in tells what it finds."""
    code = (
        "import sys\n"
        "try:\n"
        "    import kernels\n"
        "except ImportError:\n"
        "    sys.exit('no kernels')\n"
        "sys.exit('kernels')\n"
    )
    put_stand_in(monkeypatch, tmp_path, code, kernels="", peft="import bitsandbytes\n")
    with pytest.raises(SystemExit, match="^no kernels$"):
        call()


@pytest.mark.parametrize("error", ["RuntimeError", "ImportError", "OSError"])
@pytest.mark.parametrize("weights", list(BaseWeights))
def test_a_broken_library_is_told_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, weights: BaseWeights
) -> None:
    """For full weights too: PEFT imports it wherever it is installed."""
    put_stand_in(monkeypatch, tmp_path, f"raise {error}('no libcudart.so')\n")
    with pytest.raises(ConfigError, match=f"cannot be imported .{error}: no libcudart") as caught:
        check_base(str(small_base()), profile(weights))
    assert "pip uninstall" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="cannot be imported"):
        attach_population(tiny_base(), PopulationSettings(), seed=0)


def test_importing_the_library_fetches_no_kernel_and_says_nothing(tmp_path: Path) -> None:
    """Shows something on processors for which bitsandbytes has kernels on the hub only."""
    trace = tmp_path / "imported"
    (tmp_path / "kernels.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    code = (
        "import sys; from proper_model.base.quantized import import_library; "
        "assert import_library() is not None; assert 'kernels' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not trace.exists()
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_base_packed_on_its_way_to_a_gpu_gets_a_gpus_attention(tmp_path: Path) -> None:
    folder = str(small_base())
    model, _ = load_base(folder, device=torch.device("cuda"), weights=BaseWeights.FOUR_BIT)
    assert model.config._attn_implementation == "sdpa"
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    stays, _ = load_base(folder, device=torch.device("cpu"))
    assert stays.config._attn_implementation == "eager"


def pooled(base: Path, cache: Path, weights: BaseWeights, phases: list[str]) -> Release:
    return run_pooled_stages(
        small_users()[0],
        load_task("synth_tag"),
        str(base),
        dataclasses.replace(preset("default"), embedding_dim=8),
        dataclasses.replace(FAST, base_weights=weights),
        seed=0,
        cache=cache,
        progress=lambda phase, done, total: phases.append(phase) if total else None,
    )


def test_a_release_holds_the_full_base_and_a_device_packs_it(tmp_path: Path) -> None:
    base = small_base()
    first: list[str] = []
    again: list[str] = []
    full = pooled(base, tmp_path / "cache", BaseWeights.FULL, first)
    release = pooled(base, tmp_path / "cache", BaseWeights.FOUR_BIT, again)
    # Stage 1 knows nothing of it and is shared; stage 2 trains over the packed base.
    assert set(first) == {"population", "group", "router"}
    assert set(again) == {"group", "router"}
    assert fingerprint(release.base) == fingerprint(full.base)
    assert any(not torch.equal(release.shared[n], t) for n, t in full.shared.items())
    files = release_to_files(release)
    assert files["base/model.safetensors"] == release_to_files(full)["base/model.safetensors"]
    installed = release_in_memory(files)
    assert installed.settings.base_weights == BaseWeights.FOUR_BIT
    assert is_quantized(installed.base)
    assert not is_quantized(release_in_memory(release_to_files(full)).base)
    with pytest.raises(BaseModelError, match="in full"):
        release_to_files(installed)
    states = adapt_users(installed, small_users()[1], arms=["stage3"], bundle_id="b", seed=0)
    reports = [state.embedding_report for state in states.values()]
    assert any(one["embedding_loss_after"] < one["embedding_loss_before"] for one in reports)
    for state in states.values():
        private = state.private(installed.task.name)
        assert {tensor.dtype for tensor in private.values()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("weights", PACKED)
def test_a_gpu_unpacks_what_the_cpu_does(weights: BaseWeights) -> None:
    full = linear(96, 688)
    here = QuantizedLinear(full, weights)
    there = QuantizedLinear(full.cuda(), weights)
    assert torch.allclose(
        here.unpacked(torch.float32), there.unpacked(torch.float32).cpu(), atol=1e-6
    )
    x = torch.randn(4, 688, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    there(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
