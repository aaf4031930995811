"""An exported adapter is PEFT's own: PeftModel gives our logits, and what cannot fold is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from proper_model.errors import ExportError, StateError
from proper_model.export.peft_lora import SERVED_RANKS, PeftAdapter, peft_adapter
from proper_model.export.user_fold import fold_release
from proper_model.settings.presets import PRESETS
from proper_model.settings.profile import ATTENTION_TARGETS, FFN_TARGETS
from tests.exports import (
    installed,
    logits_of,
    noisy_release,
    our_logits,
    own_items,
    public_base,
    release_and_user,
    user_tensors,
)
from tests.tiny import exact_norms, tiny_base

ITEMS = own_items()


def exported(release: Any, **options: Any) -> tuple[PeftAdapter, dict[str, Tensor]]:
    tensors = user_tensors(release)
    fold = fold_release(release, tensors)
    assert fold.report is None
    return peft_adapter(release, fold, base_name="any", **options), tensors


def load(base: Any, adapter: PeftAdapter, folder: Path) -> Any:
    folder.mkdir()
    save_file(dict(adapter.tensors), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(adapter.config))
    model = PeftModel.from_pretrained(base, folder)
    assert sum("lora_" in name for name, _ in model.named_parameters()) == len(adapter.tensors)
    return model


def furthest(release: Any, tensors: Mapping[str, Tensor], model: Any, **options: Any) -> float:
    return max(
        (our_logits(release, tensors, item, **options) - logits_of(model, item)).abs().max().item()
        for item in ITEMS
    )


def test_over_an_embedded_base_peft_gives_our_logits(tmp_path: Path) -> None:
    release = installed(noisy_release(), tmp_path)
    adapter, tensors = exported(release)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert furthest(release, tensors, base) > 0.05
    assert furthest(release, tensors, load(base, adapter, tmp_path / "adapter")) < 1e-5
    assert adapter.config["target_modules"] == sorted(FFN_TARGETS)
    assert (adapter.natural_rank, adapter.rank) == (24, 32)


@pytest.mark.parametrize(
    ("targets", "natural"), [(ATTENTION_TARGETS, 24), (ATTENTION_TARGETS + FFN_TARGETS, 27)]
)
def test_over_the_public_base_peft_gives_our_logits(
    tmp_path: Path, targets: tuple[str, ...], natural: int
) -> None:
    public_base(tmp_path)
    release = installed(noisy_release(targets=targets, referenced=True), tmp_path)
    adapter, tensors = exported(release)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    # Without the population's part it would be another model.
    user_only, _ = exported(dataclasses.replace(release, population={}))
    lacking = load(copy.deepcopy(base), user_only, tmp_path / "lacking")
    assert furthest(release, tensors, lacking) > 0.05
    assert furthest(release, tensors, load(base, adapter, tmp_path / "adapter")) < 1e-5
    assert set(adapter.config["target_modules"]) == {*ATTENTION_TARGETS, *FFN_TARGETS}
    assert (adapter.natural_rank, adapter.rank) == (natural, 32)


def test_in_float64_throughout_nothing_but_rounding_is_left(tmp_path: Path) -> None:
    base = tiny_base()
    exact_norms(base)
    plain = copy.deepcopy(base)
    release = noisy_release(base=base, referenced=True)
    adapter, tensors = exported(release, dtype=torch.float64)
    model = load(plain, adapter, tmp_path / "adapter")
    assert furthest(release, tensors, model, double=True) < 1e-10


def test_padding_to_a_rank_that_servers_take_is_zeros() -> None:
    adapter, _ = exported(noisy_release())
    natural = adapter.natural_rank
    for name, tensor in adapter.tensors.items():
        padding = tensor[natural:] if "lora_A" in name else tensor[:, natural:]
        assert padding.numel() > 0
        assert not padding.any()


def test_the_config_is_what_servers_take() -> None:
    adapter, _ = exported(noisy_release(), revision="abc")
    assert adapter.config["r"] == adapter.config["lora_alpha"] == adapter.rank
    assert adapter.rank in SERVED_RANKS
    assert adapter.config["bias"] == "none"
    assert adapter.config["revision"] == "abc"
    # Known to every PEFT since 0.6, and nothing else: a newer field warns in the oldest one allowed.
    assert set(adapter.config) == {
        "base_model_name_or_path",
        "bias",
        "inference_mode",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "r",
        "revision",
        "target_modules",
        "task_type",
    }
    assert all(t.dtype is torch.float32 for t in adapter.tensors.values())
    ranks = {t.shape[0] if "lora_A" in n else t.shape[1] for n, t in adapter.tensors.items()}
    assert ranks == {adapter.rank}


def test_other_dtypes() -> None:
    release = noisy_release()
    half, _ = exported(release, dtype=torch.bfloat16)
    full, _ = exported(release)
    for name, tensor in half.tensors.items():
        assert torch.equal(tensor, full.tensors[name].bfloat16())
    with pytest.raises(ExportError, match="int8"):
        exported(release, dtype=torch.int8)
    tensors = user_tensors(release)
    tensors["lora.model.layers.0.mlp.up_proj.B"] *= 1e6
    with pytest.raises(ExportError, match="float16 cannot"):
        peft_adapter(release, fold_release(release, tensors), base_name="any", dtype=torch.float16)


def test_foreign_tensors_are_refused() -> None:
    release, tensors = release_and_user(referenced=True)
    fold = fold_release(release, tensors)
    odd = dataclasses.replace(release, population={"model.embed": torch.zeros(2)})
    with pytest.raises(ExportError, match="no LoRA factor"):
        peft_adapter(odd, fold, base_name="any")
    del tensors["embedding"]
    with pytest.raises(StateError, match="embedding"):
        fold_release(release, tensors)


@pytest.mark.parametrize("name", sorted(n for n, kind in PRESETS.items() if not kind.foldable))
def test_routing_by_token_is_refused(name: str) -> None:
    release, tensors = release_and_user(name)
    with pytest.raises(ExportError, match="routes by token") as caught:
        fold_release(release, tensors, samples=ITEMS)
    assert caught.value.exit_code == 49
    assert "approximate" in (caught.value.hint or "")
    with pytest.raises(ExportError, match="there are none"):
        fold_release(release, tensors, approximate=True)


def literal_fold(release: Any, tensors: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """sum_n w_n B_n A_n + B_u A_u, times s, of every site: a loop in float64."""
    shared, s = release.shared, release.structure.scale
    updates = {}
    for number, site in enumerate(release.model().sites):
        a, b = (shared[f"experts.{site.path}.{factor}"].double() for factor in "AB")
        update = sum(float(weights[number, n]) * b[n] @ a[n] for n in range(len(a)))
        own = (tensors[f"lora.{site.path}.{factor}"].double() for factor in "BA")
        updates[site.path] = s * (update + next(own) @ next(own))
    return updates


def literal_mean_weights(release: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """Eq. 8 and 12 with their logits added, token by token and linear by linear."""
    model, shared = release.model(), release.shared
    sites = [site.path for site in model.sites]
    layers = [site.layer for site in model.sites]
    base = copy.deepcopy(release.base)
    seen: dict[str, Tensor] = {}

    def hook(number: int) -> Any:
        def forward(module: Any, inputs: Any, output: Tensor) -> Tensor:
            x, path = inputs[0][0], sites[number]
            a, b = (tensors[f"lora.{path}.{factor}"] for factor in "AB")
            text, user, lora = (shared[f"routers.{path}.{k}"] for k in ("text", "user", "lora"))
            own = x @ a.T @ b.T
            e = tensors["embedding"][layers[number]]
            w = (x @ text.T + user @ e + own @ lora.T).softmax(-1)
            seen[path] = w.double().mean(0)
            experts = zip(shared[f"experts.{path}.A"], shared[f"experts.{path}.B"], strict=True)
            mixed = sum(w[:, n, None] * (x @ ea.T @ eb.T) for n, (ea, eb) in enumerate(experts))
            return output + release.structure.scale * (mixed + own)[None]

        return forward

    for number, path in enumerate(sites):
        base.get_submodule(path).register_forward_hook(hook(number))
    total = torch.zeros(len(sites), release.structure.experts, dtype=torch.float64)
    for item in ITEMS:
        assert torch.allclose(logits_of(base, item), our_logits(release, tensors, item), atol=1e-4)
        total += torch.stack([seen[path] for path in sites])
    return total / len(ITEMS)


def test_an_approximate_fold_measures_what_it_loses() -> None:
    release, tensors = release_and_user("default")
    fold = fold_release(release, tensors, approximate=True, samples=ITEMS)
    weights = literal_mean_weights(release, tensors)
    base = copy.deepcopy(release.base)
    for path, update in literal_fold(release, tensors, weights).items():
        b_a = fold.factors[path][1] @ fold.factors[path][0]
        assert torch.allclose(b_a, update, atol=1e-5)
        weight = base.get_submodule(path).weight
        weight.data = (weight.double() + update).float()
    exact = folded = largest = 0.0
    for item in ITEMS:
        answer = torch.tensor(item.tokens[item.prompt_tokens :])
        ours, theirs = our_logits(release, tensors, item), logits_of(base, item)
        exact += torch.nn.functional.cross_entropy(ours, answer, reduction="sum").item()
        folded += torch.nn.functional.cross_entropy(theirs, answer, reduction="sum").item()
        largest = max(largest, (ours - theirs).abs().max().item())
    tokens = sum(item.answer_tokens for item in ITEMS)
    assert fold.report is not None
    assert fold.report.items == len(ITEMS)
    assert fold.report.exact_nll == pytest.approx(exact / tokens, abs=1e-5)
    assert fold.report.folded_nll == pytest.approx(folded / tokens, abs=1e-5)
    assert fold.report.largest_logit_difference == pytest.approx(largest, abs=1e-4)
    assert largest > 1e-3, "token routing must matter here, or nothing was measured"


@pytest.mark.parametrize("name", ["device", "default"])
def test_an_export_measures_what_stage_three_alone_loses(name: str) -> None:
    """Its factors are the same; the loss is of w p_3 + (1 - w) p_2 at its temperature, by hand."""
    release, tensors = release_and_user(name)
    weight, temperature = 0.3, 1.5
    options: Any = {"approximate": True, "samples": ITEMS}
    alone = fold_release(release, tensors, **options)
    fold = fold_release(release, tensors, **options, share=(weight, temperature))
    for path, factors in alone.factors.items():
        assert all(torch.equal(*pair) for pair in zip(factors, fold.factors[path], strict=True))
    exact = 0.0
    for item in ITEMS:
        answer = torch.tensor(item.tokens[item.prompt_tokens :])
        three = our_logits(release, tensors, item).double().softmax(-1)
        two = our_logits(release, tensors, item, arm="stage2").double().softmax(-1)
        mixed = (weight * three + (1 - weight) * two) ** (1 / temperature)
        exact -= (
            (mixed / mixed.sum(-1, keepdim=True))[range(len(answer)), answer].log().sum().item()
        )
    assert fold.report is not None
    assert fold.report.exact_nll == pytest.approx(
        exact / sum(item.answer_tokens for item in ITEMS), abs=1e-5
    )
    assert (fold.report.mixed, fold.report.routed) == (True, name == "default")
    if alone.report is not None:
        assert fold.report.folded_nll == pytest.approx(alone.report.folded_nll)
    with pytest.raises(ExportError, match="there are none"):
        fold_release(release, tensors, approximate=True, share=(weight, temperature))


def test_a_foldable_release_is_exact_even_when_asked_to_approximate() -> None:
    release, tensors = release_and_user()
    exact = fold_release(release, tensors)
    asked = fold_release(release, tensors, approximate=True, samples=ITEMS)
    assert asked.report is None
    for path, factors in exact.factors.items():
        assert all(map(torch.equal, factors, asked.factors[path]))
