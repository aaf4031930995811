"""Loading bases: fingerprints, decoding settings, padding in float64, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from proper_model.base.loading import fingerprint
from proper_model.checks.outside_base import load_base
from proper_model.errors import BaseModelError
from tests.releases import small_base
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base() -> Path:
    return small_base()


def test_a_bases_own_decoding_settings_do_not_reach_greedy_answers(
    base: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_base(str(base))
    model.generation_config = GenerationConfig(
        repetition_penalty=5.0, temperature=0.1, do_sample=True
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_base(str(tmp_path))
    assert again.generation_config.repetition_penalty in (None, 1.0)
    assert not again.generation_config.do_sample


def test_a_base_cast_to_float64_later_has_no_nan_behind_padding(base: Path) -> None:
    model, _ = load_base(str(base), computing=torch.float64)
    model.double()
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]]),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        ).logits
    assert logits[mask.bool()].isfinite().all()


def test_a_base_without_fused_attention_loads_where_it_is_preferred(
    base: Path, tmp_path: Path
) -> None:
    """Gemma 2 caps its scores: transformers refuses 'sdpa' for it, which float64 and GPUs prefer."""
    load_base(str(base))[1].save_pretrained(tmp_path)
    _, tokenizer = load_base(str(base))
    tiny_base("gemma2", dtype=torch.float32, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    model, _ = load_base(str(tmp_path), computing=torch.float64)
    assert model.config._attn_implementation == "eager"
    model, _ = load_base(str(base), computing=torch.float64)
    assert model.config._attn_implementation == "sdpa"


def test_the_fingerprint_sees_weights_and_configuration(base: Path) -> None:
    first, again = (load_base(str(base))[0] for _ in range(2))
    assert fingerprint(first) == fingerprint(again)
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(first) != fingerprint(again)
    other = load_base(str(base))[0]
    other.config.rms_norm_eps = 1e-3
    assert fingerprint(first) != fingerprint(other)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./missing"])
def test_a_missing_folder_is_a_clear_error(name: str) -> None:
    with pytest.raises(BaseModelError, match="does not exist"):
        load_base(name)


def test_a_folder_without_a_model_says_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(BaseModelError, match="cannot be loaded") as caught:
        load_base(str(tmp_path))
    assert "config.json" in str(caught.value.hint)
