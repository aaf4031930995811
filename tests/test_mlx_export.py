"""An adapter for MLX has mlx-lm's names, shapes and scale; with mlx-lm itself, its logits are ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from client.export.request import BaseBeside
from proper_model.errors import ExportError
from proper_model.export.mlx_lora import MODEL_TYPES, mlx_adapter
from proper_model.export.peft_lora import joined_factors
from proper_model.export.user_fold import fold_release
from tests.exports import (
    PUBLIC,
    mlx_of,
    noisy_release,
    our_logits,
    own_items,
    release_and_user,
    user_tensors,
)
from tests.tiny import tiny_base

ITEM = own_items()[0]
FFN = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]
ATTENTION = [f"self_attn.{name}_proj" for name in "koqv"]


@pytest.mark.parametrize("referenced", [False, True])
def test_names_shapes_and_scale_are_mlx_lms(tmp_path: Path, referenced: bool) -> None:
    release, tensors = release_and_user(referenced=referenced)
    done = mlx_of(tmp_path / "out", release, tensors)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    keys = sorted([*FFN, *ATTENTION]) if referenced else FFN
    assert config == {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": 24, "scale": 1.0, "dropout": 0.0, "keys": keys},
    }
    assert (done.rank, done.natural_rank) == (24, 24)
    written = load_file(tmp_path / "out" / "adapters.safetensors")
    factors = joined_factors(release, fold_release(release, tensors))
    assert set(written) == {f"{path}.lora_{part}" for path in factors for part in "ab"}
    generator = np.random.default_rng(0)
    for path, (a, b) in factors.items():
        x = generator.normal(size=a.shape[1])
        # y + scale * (x lora_a) lora_b, as mlx_lm/tuner/lora.py has it
        theirs = 1.0 * (x @ written[f"{path}.lora_a"]) @ written[f"{path}.lora_b"]
        assert written[f"{path}.lora_a"].shape == (a.shape[1], 24)
        assert written[f"{path}.lora_b"].shape == (24, len(b))
        assert np.allclose(theirs, (b @ a).numpy() @ x, atol=1e-4)


def test_the_readme_says_where_the_base_is(tmp_path: Path) -> None:
    for referenced, said in ((False, "cp -r BUNDLE/base BASE"), (True, PUBLIC.revision)):
        release = noisy_release(referenced=referenced)
        out = tmp_path / str(referenced)
        mlx_of(out, release, user_tensors(release))
        assert said in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_mlx_lm_computes_our_logits(tmp_path: Path, kind: str) -> None:
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    for referenced in (False, True):
        release, tensors = release_and_user(
            base=tiny_base(kind, dtype=torch.float32), referenced=referenced
        )
        public = tiny_base(kind, dtype=torch.float32) if referenced else release.base
        out = tmp_path / str(referenced)
        mlx_of(out, release, tensors, beside=BaseBeside(public, release.tokenizer, torch.float32))
        model, _ = utils.load_model(out / "base")
        model = utils.load_adapters(model, str(out))
        model.eval()
        logits = np.array(model(mx.array([list(ITEM.tokens)])))
        theirs = torch.tensor(logits[0, ITEM.prompt_tokens - 1 : -1])
        ours = our_logits(release, tensors, ITEM)
        # mlx-lm's first Gemma takes the exact GELU, Hugging Face its tanh form.
        assert torch.allclose(theirs, ours, atol=1e-3 if kind == "gemma" else 1e-5)


def test_factors_outside_of_blocks_have_no_place() -> None:
    release = noisy_release()
    factors = {"model.odd": (torch.zeros(1, 2), torch.zeros(2, 1))}
    with pytest.raises(ExportError, match=r"model\.odd"):
        mlx_adapter(release.base.config, factors)
