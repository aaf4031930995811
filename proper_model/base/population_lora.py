"""Stage 1: the population LoRA, trained with PEFT and merged into the base (PROPER eq. 3-6).

Targets are the attention projections, rank 8, alpha 16 (PROPER A.3 through Per-Pcs's default).
DEVIATION in profiles that say so: small bases that know no task format adapt the feed-forward too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from proper_model.base.quantized import import_peft
from proper_model.errors import BaseModelError
from proper_model.kernels.attention import packed_attention
from proper_model.kernels.dropout import row_masks
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


def adapter_config(
    base_name: str, targets: Iterable[str], *, rank: int, alpha: float, dropout: float
) -> dict[str, Any]:
    """Content of PEFT's `adapter_config.json`: fields that every PEFT since 0.6 knows."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(targets),
        "bias": "none",
        "inference_mode": True,
    }


def population_config(settings: PopulationSettings, base_name: str) -> str:
    """`adapter_config.json` of the population LoRA, so that PeftModel loads it too."""
    config = adapter_config(
        base_name,
        settings.targets,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
    )
    return json.dumps(config, indent=1, sort_keys=True)


def population_state(model: Any) -> dict[str, Tensor]:
    """The factors under PEFT's names on disk."""
    # Left to itself PEFT adds embeddings where a configuration elsewhere has another vocabulary.
    found = import_peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def freeze_factors_a(model: Any) -> None:
    """Leave every A where it was drawn, so that B alone is trained (FFA-LoRA, arXiv 2403.12313)."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)


def factors_b(model: Any) -> list[Tensor]:
    """Every B, in the model's order."""
    return [p for name, p in model.named_parameters() if ".lora_B." in name]


class RowDropout(torch.nn.Module):
    """Drops with probability `p` at linear `site` while a batch with seeds is open, else nothing.

    PEFT's own draws one mask for a whole pass from torch's global state, so that a step cut in another
    way by memory would train otherwise. This one is drawn a row at a time, as everywhere (`dropout`).
    """

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.p, self.site = p, site
        self.batch: Batch | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [1, M, d] of a packed pass -> the same shape, rescaled by 1 / (1 - p)."""
        batch = self.batch
        if batch is None or batch.seeds is None:
            return x
        flat = x.reshape(-1, x.shape[-1])
        mask = row_masks(flat, self.p, batch.seeds, batch.layout, self.site)
        return (flat * mask / (1 - self.p)).view_as(x)


def drop_by_row(peft: torch.nn.Module) -> None:
    """Replace the dropout of PEFT's adapters by one that is drawn a row at a time."""
    found = [
        (path, module)
        for path, module in peft.named_modules()
        if ".lora_dropout." in path and isinstance(module, torch.nn.Dropout)
    ]
    for site, (path, before) in enumerate(found):
        peft.set_submodule(path, RowDropout(before.p, site))


@contextmanager
def dropping(peft: torch.nn.Module, batch: Batch) -> Iterator[None]:
    """Drop by the seeds of `batch`, if it has any, while open."""
    own = [module for module in peft.modules() if isinstance(module, RowDropout)]
    for module in own:
        module.batch = batch
    try:
        yield
    finally:
        for module in own:
            module.batch = None


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
