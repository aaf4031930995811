"""What a federated participant would upload, were the pooled stages trained by gradients from devices.

    router       gradient of W_l of every site (stage 3b), with the participant's own provisional LoRA and
                 embedding in place
    lora         gradient of a shared LoRA at its start, on the linears that stage 1 trains
    lora-update  the shared LoRA's whole change after some local steps, over rate and steps
    embeddings   gradient of the input embedding matrix, as norms of its rows; nobody would train
                 it, and it names the tokens: a positive control

Today nothing of this leaves a device (docs/privacy.md). Rows of a pass have copies of the parameters of
their own, so that each one's gradient stands apart.

Letters: n texts, D numbers of an upload, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proper_model.kernels import Encoded
from proper_model.model import AdaptedModel, GivenLora, Pass, base_pass, personal_pass
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure, UserRouting
from proper_model.text import Encoder

Floats = NDArray[np.float64]
ROWS = 64  # of a pass
START_SEED = 0  # of the shared LoRA, which everybody knows
LOCAL_STEPS, LOCAL_RATE = 4, 1.0  # of plain gradient descent on the whole batch


class Upload(Protocol):
    """A model, and the parameters whose gradient is sent."""

    model: AdaptedModel

    def place(self, slots: Sequence[int]) -> tuple[Pass, list[Tensor]]:
        """Load rows of these people; the pass they take and the leaves [rows, ...] of the upload."""


class RouterUpload:
    """W_l of every site, with every person's adapter and embedding: `states` as `train_adapters` makes."""

    def __init__(self, release: Release, states: Sequence[Mapping[str, Tensor]]) -> None:
        self.model = release.model()
        device = self.model.device

        def stacked(letter: str) -> list[Tensor]:
            names = [f"lora.{site.path}.{letter}" for site in self.model.sites]
            return [torch.stack([own[name] for own in states]).to(device) for name in names]

        self.a, self.b = stacked("A"), stacked("B")
        self.embeddings = torch.stack([own["embedding"] for own in states]).to(device)
        routers = [self.model.router(number).lora for number in range(len(self.model.sites))]
        self.w = [weight.detach() for weight in routers if weight is not None]

    def place(self, slots: Sequence[int]) -> tuple[Pass, list[Tensor]]:
        of = torch.tensor(list(slots), device=self.model.device)
        dtype = next(self.model.base.parameters()).dtype
        leaves = [_copies(weight.to(dtype), len(slots)) for weight in self.w]
        a, b = ([one.to(dtype)[of] for one in factors] for factors in (self.a, self.b))
        self.model.lora = GivenLora(a, b, leaves)
        rows = torch.arange(len(slots), device=self.model.device)
        routing, own = self.model.structure.user_routing, self.embeddings.to(dtype)[of]
        return personal_pass(rows, embeddings=own, routing=routing, experts=True), leaves


class LoraUpload:
    """A shared LoRA at its start over the public base, on the linears of stage 1."""

    def __init__(self, base: Any, structure: Structure, settings: StageSettings) -> None:
        own = settings.population
        shape = replace(structure, rank=own.rank, alpha=own.alpha)
        self.model = AdaptedModel(
            base, shape, generator=torch.Generator().manual_seed(0), targets=own.targets
        )
        drawn = self.model.new_user_lora([START_SEED], experts=False)
        self.a = [factor.detach()[0] for factor in drawn.a]
        self.b = [factor.detach()[0] for factor in drawn.b]

    def place(self, slots: Sequence[int]) -> tuple[Pass, list[Tensor]]:
        dtype = next(self.model.base.parameters()).dtype
        a, b = (
            [_copies(factor.to(dtype), len(slots)) for factor in factors]
            for factors in (self.a, self.b)
        )
        self.model.lora = GivenLora(a, b)
        return _lora_pass(len(slots), self.model.device), [*a, *b]


def _copies(tensor: Tensor, rows: int) -> Tensor:
    return tensor.expand(rows, *tensor.shape).clone().requires_grad_(True)


def _lora_pass(rows: int, device: torch.device) -> Pass:
    return personal_pass(
        torch.arange(rows, device=device),
        embeddings=None,
        routing=UserRouting.USER_AWARE,
        experts=False,
    )


def gradients(
    upload: Upload, encoder: Encoder, records: Sequence[Encoded], slots: Sequence[int]
) -> Floats:
    """[n, D] each record's gradient, with the person of its slot."""
    found = []
    for start in range(0, len(records), ROWS):
        part, of = records[start : start + ROWS], slots[start : start + ROWS]
        now, leaves = upload.place(of)
        batch = encoder.batch(part, range(len(part)), device=upload.model.device)
        losses = upload.model.answer_loss(batch, now)
        found.append(flat(torch.autograd.grad(losses.sum(), leaves)))
    return np.concatenate(found)


def flat(gradients_of: Sequence[Tensor]) -> Floats:
    """Tensors [rows, ...] side by side: [rows, D]."""
    whole = torch.cat([one.detach().flatten(1) for one in gradients_of], dim=1)
    return np.asarray(whole.double().cpu().numpy())


def local_updates(
    upload: LoraUpload, encoder: Encoder, batches: Sequence[Sequence[Encoded]]
) -> Floats:
    """[n, D] minus the change of every batch's LoRA in LOCAL_STEPS, over rate and steps.

    For small steps it is the batch's gradient.
    """
    model = upload.model
    _, leaves = upload.place(range(len(batches)))
    start = [leaf.detach().clone() for leaf in leaves]
    rows = [(slot, record) for slot, own in enumerate(batches) for record in own]
    counts = torch.tensor([len(own) for own in batches], device=model.device)
    sites = len(model.sites)
    for _ in range(LOCAL_STEPS):
        model.lora = GivenLora(leaves[:sites], leaves[sites:])
        batch = encoder.batch([r for _, r in rows], [s for s, _ in rows], device=model.device)
        now = replace(_lora_pass(len(batches), model.device), slots=batch.slots)
        losses = model.answer_loss(batch, now) / counts[batch.slots]
        steps = torch.autograd.grad(losses.sum(), leaves)
        leaves = [
            (leaf - LOCAL_RATE * step).detach().requires_grad_(True)
            for leaf, step in zip(leaves, steps, strict=True)
        ]
    moved = [(a - b) / (LOCAL_RATE * LOCAL_STEPS) for a, b in zip(start, leaves, strict=True)]
    return flat(moved)


def embedding_rows(model: AdaptedModel, encoder: Encoder, records: Sequence[Encoded]) -> Floats:
    """[n, V] norms of the rows of the input embedding matrix's gradient, over the base alone."""
    table = model.base.get_input_embeddings()
    held: list[Tensor] = []

    def cut(_: Any, __: Any, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_(True))
        return held[-1]

    found = []
    for record in records:
        handle = table.register_forward_hook(cut)
        try:
            batch = encoder.batch([record], [0], device=model.device)
            loss = model.answer_loss(batch, base_pass(batch.slots)).sum()
            (gradient,) = torch.autograd.grad(loss, [held.pop()])
        finally:
            handle.remove()
        rows = torch.zeros_like(table.weight).index_add_(0, batch.input_ids[0], gradient[0])
        found.append(rows.norm(dim=1).double().cpu().numpy())
    return np.stack(found)
