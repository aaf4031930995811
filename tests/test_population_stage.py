"""Stage 1's losses: PEFT's own model, one row at a time, is the oracle of the packed pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from proper_model.base.loading import compute_dtype
from proper_model.base.population_lora import attach_population, population_losses
from proper_model.kernels.attention import NAME, attend
from proper_model.settings.profile import (
    ATTENTION_TARGETS,
    FFN_TARGETS,
    PopulationSettings,
    StageSettings,
)
from tests.tiny import batch_of, exact_norms, loss_alone, randomize, samples, tiny_base

ITEMS = samples(5, seed=1)
BATCH = batch_of(ITEMS, [0] * len(ITEMS))
SHARES = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


def settings(dtype: str, **population: Any) -> StageSettings:
    return StageSettings(
        name="tiny",
        dtype=dtype,
        population=PopulationSettings(rank=4, alpha=8.0, dropout=0.0, **population),
    )


def peft_of(chosen: StageSettings, dtype: torch.dtype, **changes: Any) -> Any:
    """A PEFT model with noisy factors in training mode, as stage 1 runs it."""
    base = tiny_base(dtype=dtype, **changes)
    exact_norms(base)
    peft = attach_population(base, chosen.population, seed=1).to(dtype)
    randomize((p for n, p in peft.named_parameters() if "lora_" in n), seed=4)
    peft.train()
    return peft


def losses_of(peft: Any, chosen: StageSettings) -> Tensor:
    return population_losses(peft, BATCH, compute_dtype(chosen.dtype, torch.device("cpu")))


def trained(peft: Any) -> list[Tensor]:
    return [p for p in peft.parameters() if p.requires_grad]


@pytest.mark.parametrize("targets", [ATTENTION_TARGETS, ATTENTION_TARGETS + FFN_TARGETS])
@pytest.mark.parametrize("key_heads", [1, 2])
def test_packed_losses_and_gradients_are_pefts_a_row_at_a_time(
    targets: tuple[str, ...], key_heads: int
) -> None:
    chosen = settings("float64", targets=targets)
    peft = peft_of(chosen, torch.float64, num_key_value_heads=key_heads)
    ours = losses_of(peft, chosen)
    theirs = torch.stack([loss_alone(peft, item) for item in ITEMS])
    assert torch.allclose(ours, theirs, atol=1e-12)
    found = torch.autograd.grad(ours, trained(peft), SHARES.double())
    expected = torch.autograd.grad(theirs, trained(peft), SHARES.double())
    assert len(found) == 2 * 2 * len(targets)  # two blocks, A and B of each
    for mine, other in zip(found, expected, strict=True):
        assert mine.abs().sum() > 0
        assert torch.allclose(mine, other, atol=1e-12)
    assert peft.get_base_model().config._attn_implementation == "sdpa"


def test_rows_are_kept_apart_by_packed_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face would find the rows by their positions too, with a mask over all tokens."""
    seen = []

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(named["layout"])
        return attend(*arguments, **named)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, NAME, watched)
    chosen = settings("float64")
    losses_of(peft_of(chosen, torch.float64), chosen)
    assert seen == [BATCH.layout] * 2  # once a block


def test_bfloat16_computes_with_float32_factors() -> None:
    """As near to float32 as PEFT's own rows under autocast, where queries and keys are float32 and
    values bfloat16.
    """
    chosen = settings("bfloat16")
    peft = peft_of(chosen, torch.float32, attn_implementation="eager")
    exact = losses_of(peft, settings("float32"))
    ours = losses_of(peft, chosen)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = torch.stack([loss_alone(peft, item) for item in ITEMS])
    assert ours.dtype is torch.float32
    assert not torch.equal(ours, exact)
    assert torch.allclose(ours, exact, rtol=0.02)
    expected, found, alone = (gradients(losses, peft) for losses in (exact, ours, theirs))
    assert (found - expected).norm() < 1.2 * (alone - expected).norm() < expected.norm() / 2


def gradients(losses: Tensor, peft: Any) -> Tensor:
    parts = torch.autograd.grad(losses, trained(peft), SHARES)
    assert all(part.dtype is torch.float32 for part in parts)
    return torch.cat([part.flatten() for part in parts])
