"""Exports over a checkpoint that reads images too: for all of it, or for its language model beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from client.export.folder import BaseBeside, write_peft
from client.export.runtimes import write_mlx
from proper_model.checks.outside_base import load_base
from proper_model.release.contents import release_to_files
from tests.exports import (
    BUNDLE,
    PUBLIC,
    VOCABULARY,
    logits_of,
    noisy_release,
    our_logits,
    own_items,
    user_tensors,
)
from tests.releases import release_in_memory
from tests.test_nested_base import nested_config

ITEM = own_items()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "base"
    torch.manual_seed(0)
    hf.Gemma3ForConditionalGeneration(nested_config()).eval().save_pretrained(folder)
    noisy_release().tokenizer.save_pretrained(folder)
    return folder


def exported(folder: Path, out: Path, write: Any, *, beside: bool) -> torch.Tensor:
    """A release over the public checkpoint, exported; our logits."""
    base, tokenizer = load_base(str(folder))
    alone = BaseBeside(load_base(str(folder))[0], tokenizer, torch.float32) if beside else None
    release = noisy_release("device", base=base, referenced=True)
    release = release_in_memory(release_to_files(release, base=PUBLIC), folder)
    tensors = user_tensors(release)
    write(out, release, tensors, bundle_id=BUNDLE, base=PUBLIC, beside=alone)
    return our_logits(release, tensors, ITEM)


def test_beside_its_base_an_adapter_is_for_the_language_model_alone(
    folder: Path, tmp_path: Path
) -> None:
    ours = exported(folder, tmp_path / "out", write_peft, beside=True)
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.model_type == "gemma3_text"
    assert torch.allclose(ours, logits_of(theirs, ITEM), atol=1e-4)


@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_for_mlx_has_the_names_of_its_base(
    folder: Path, tmp_path: Path, beside: bool
) -> None:
    out = tmp_path / "out"
    ours = exported(folder, out, write_mlx, beside=beside)
    start = "model.layers." if beside else "language_model.model.layers."
    assert all(name.startswith(start) for name in load_file(out / "adapters.safetensors"))
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    # Its reader of the whole takes the vocabulary's size from the top, where few checkpoints say it.
    model, _ = utils.load_model(
        out / "base" if beside else folder, model_config={"vocab_size": VOCABULARY}
    )
    model = utils.load_adapters(model, str(out))
    model.eval()
    logits = torch.tensor(np.array(model(mx.array([list(ITEM.tokens)]))))
    assert torch.allclose(logits[0, ITEM.prompt_tokens - 1 : -1], ours, atol=1e-4)
