"""Stage 1: the population LoRA, trained with PEFT and merged into the base (PROPER eq. 3-6).

Targets are the attention projections, rank 8, alpha 16 (PROPER A.3 through Per-Pcs's default).
DEVIATION in profiles that say so: small bases that know no task format adapt the feed-forward too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proper_model.base.quantized import import_peft
from proper_model.base.row_dropout import drop_by_row, dropping
from proper_model.errors import BaseModelError
from proper_model.kernels.attention import packed_attention
from proper_model.kernels.packing import Batch, packed_inputs, token_nll
from proper_model.settings.profile import PopulationSettings


def check_targets(base: torch.nn.Module, targets: Sequence[str]) -> None:
    """Raise BaseModelError unless `base` has modules of all these names."""
    names = {path.rpartition(".")[2] for path, _ in base.named_modules()}
    missing = [target for target in targets if target not in names]
    if missing:
        raise BaseModelError(
            f"the base has no linears named {missing}, which population.targets asks for",
            hint="choose a base with separate q, k, v and o projections, or other targets",
        )


def attach_population(base: Any, settings: PopulationSettings, *, seed: int) -> Any:
    """A PEFT model around `base` with fresh population factors, seeded; its dropout is by row."""
    peft = import_peft()
    check_targets(base, settings.targets)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(settings.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT reads an attribute that transformers renamed; nothing a user could act on.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        torch.manual_seed(seed)
        model = peft.get_peft_model(base, config)
    drop_by_row(model)
    return model


def population_config(settings: PopulationSettings, base_name: str) -> str:
    """PEFT's `adapter_config.json` of the population LoRA, so that PeftModel loads it too."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(settings.targets),
        "bias": "none",
        "inference_mode": True,
    }
    return json.dumps(config, indent=1, sort_keys=True)


def population_state(model: Any) -> dict[str, Tensor]:
    """The factors under PEFT's names on disk."""
    # Left to itself PEFT adds embeddings where a configuration elsewhere has another vocabulary.
    found = import_peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def population_losses(peft: Any, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Answer loss of every row under the population LoRA, [R]; factors stay float32.

    The base computes in `dtype`.
    """
    device = batch.input_ids.device
    with (
        torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16),
        packed_attention(peft.get_base_model()),
        dropping(peft, batch),
    ):
        logits = peft(**packed_inputs(batch), logits_to_keep=batch.answer_at).logits[0]
    counts = torch.tensor(batch.answer_tokens, device=device)
    return batch.by_row(token_nll(logits, batch.answers)) / counts


class PopulationMerge:
    """`merge_population` for one weight after another, as a base is loaded; the same to the bit."""

    def __init__(self, settings: PopulationSettings, state: Mapping[str, Tensor]) -> None:
        self.scale = settings.alpha / settings.rank
        self.state, self.waiting = state, set(state)

    def __call__(self, path: str, weight: Tensor) -> Tensor:
        """W_p [o, i] in float32 from W_0 of the linear at `path`."""
        names = [f"base_model.model.{path}.lora_{half}.weight" for half in "BA"]
        if not self.waiting.issuperset(names):
            return weight
        self.waiting -= set(names)
        b, a = (self.state[name].float() for name in names)
        if (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise BaseModelError(
                f"the population LoRA of '{path}' has another shape than the base",
                hint="the adapter was trained on another base model",
            )
        return weight.add_((b @ a).mul_(self.scale))

    def check_used(self) -> None:
        """Raise BaseModelError if tensors are left that the base had no place for."""
        if self.waiting:
            raise _no_place_for(len(self.waiting))


def merge_population(base: Any, settings: PopulationSettings, state: Mapping[str, Tensor]) -> Any:
    """`W_p = W_0 + s B_p A_p` (eq. 6): the base with the factors merged, PEFT removed."""
    model = attach_population(base, settings, seed=0)
    result = import_peft().set_peft_model_state_dict(model, dict(state))
    if result.unexpected_keys:
        raise _no_place_for(len(result.unexpected_keys))
    merged = model.merge_and_unload()
    merged.requires_grad_(False)
    merged.eval()
    return merged


def _no_place_for(tensors: int) -> BaseModelError:
    return BaseModelError(
        f"the population LoRA has {tensors} tensors this base has no place for",
        hint="the adapter was trained on another base model",
    )
