"""What a contender trains on: a base, users, settings, and the frozen parts that all share.

Every contender builds its own world from the same numbers, so each may change its base as it
likes. Initial adapters are the engine's: PEFT, the loops and the engine start from the same bits,
which is what lets tests compare where they end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import CountingEncoder, User
from proper_model.base.sites import find_sites
from proper_model.engine.trials import TrialSettings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.layout import routing_dtype
from proper_model.kernels.packing import Batch, Encoded, budget_chunks
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.adapters import Experts
from proper_model.model.user_lora import UserLora
from proper_model.settings.presets import Structure, preset
from proper_model.text.encoding import FILL, PaddedBatch, epoch_order, padded_chunks

Factors = list[tuple[Tensor, Tensor]]  # (A [r, i], B [o, r]) of every site, in site order
LEARNING_RATE = 1e-3
EXPERT_STD, ROUTER_STD = 0.05, 0.02  # any numbers but zero: a zero expert would hide a mistake


@dataclass(frozen=True)
class Row:
    """One sample of a shared pass: whose it is and its share in that user's mean loss."""

    slot: int
    sample: Encoded
    share: float


class Contender(Protocol):
    """One way of training users; `trained` holds the last round's adapters if the world keeps."""

    trained: dict[int, Factors]

    def round(self, clock: Stopwatch) -> None:
        """Train every user of the world once from the start."""


@dataclass
class World:
    """Everything a contender needs; `encoder` counts what goes through the base."""

    spec: Spec
    base: Any
    users: list[User]
    seed: int
    settings: TrialSettings
    structure: Structure = field(default_factory=lambda: preset("default"))
    encoder: CountingEncoder = field(default_factory=CountingEncoder)
    keep: bool = False
    process: int | str = "self"  # whose memory counts: that of a peer is another

    @property
    def device(self) -> torch.device:
        return torch.device(self.base.device)

    @property
    def adapter_dtype(self) -> torch.dtype:
        """Adapters are fp32 whatever the base computes in, and float64 beside a float64 base."""
        return torch.promote_types(self.base.dtype, torch.float32)

    def widths(self) -> list[tuple[int, int]]:
        """(d_in, d_out) of every adapted linear. Call before a contender changes the base."""
        return [(site.d_in, site.d_out) for site in find_sites(self.base)]

    def packed(self, rows: Sequence[Row]) -> Batch:
        """Rows of a shared pass as the engine packs them."""
        samples, slots = [row.sample for row in rows], [row.slot for row in rows]
        return self.encoder.batch(samples, slots, device=self.device)

    def padded(self, rows: Sequence[Row]) -> PaddedBatch:
        """Rows of a shared pass, padded to the longest."""
        samples, slots = [row.sample for row in rows], [row.slot for row in rows]
        return self.encoder.padded(samples, slots, device=self.device)


def settings_of(spec: Spec, dropout: float = 0.0) -> TrialSettings:
    """How everybody trains: one epoch of the spec's steps and passes."""
    return TrialSettings(
        epochs=1,
        batch_size=spec.batch,
        dropout=dropout,
        weight_decay=0.01,
        warmup_ratio=0.0,
        max_grad_norm=1.0,
        tokens_per_step=spec.tokens_per_step,
    )


def start_of(widths: list[tuple[int, int]], world: World, user: User) -> Factors:
    """A user's initial adapter, the same bits as the engine's slot for this user."""
    fresh = UserLora(widths, 1, world.structure.rank, [user.seed]).requires_grad_(False)
    where = {"dtype": world.adapter_dtype, "device": world.device}
    return [(a[0].to(**where), b[0].to(**where)) for a, b in zip(fresh.a, fresh.b, strict=True)]


def embedding_of(world: World, tables: int, user: User) -> Tensor:
    """A user's frozen embedding, [tables, e]."""
    generator = torch.Generator().manual_seed(mix_seed(user.seed, 1))
    drawn = torch.randn(tables, world.structure.embedding_dim, generator=generator) * 0.3
    return drawn.to(world.device, world.adapter_dtype)


def shared_model(world: World) -> AdaptedModel:
    """The base with random experts and routers as stage 2 and 3b would leave them: frozen."""
    generator = torch.Generator().manual_seed(mix_seed(world.seed, 2))
    model = AdaptedModel(world.base, world.structure, generator=generator)
    with torch.no_grad():
        for number in range(len(model.sites)):
            lora = model.router(number).lora
            assert lora is not None
            for weight, std in ((experts_of(model, number).b, EXPERT_STD), (lora, ROUTER_STD)):
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(noise * std)
    return model.to(world.adapter_dtype).requires_grad_(False)


def experts_of(model: AdaptedModel, number: int) -> Experts:
    """The experts of site `number`."""
    experts = model.experts[number]
    assert isinstance(experts, Experts)
    return experts


def own_steps(user: User, settings: TrialSettings) -> list[list[Encoded]]:
    """A user's samples step by step, in the order in which the engine trains them."""
    size, steps = settings.batch_size, []
    for epoch in range(settings.epochs):
        order = epoch_order(len(user.samples), seed=user.seed, epoch=epoch)
        steps += [
            [user.samples[i] for i in order[n : n + size]] for n in range(0, len(order), size)
        ]
    return steps


def padded_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed loss a row, as padded rivals take it: logits [B, T, V] and labels [B, T] -> [B]."""
    logits = logits[:, :-1].to(routing_dtype(logits))
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    )
    return losses.view(targets.shape).sum(1)


def row_losses(
    model: Any, batch: PaddedBatch, *, all_logits: bool = False, **inputs: Any
) -> Tensor:
    """Mean loss an answer token of every row, [B], by Hugging Face's own forward of these inputs."""
    keep = 0 if all_logits else batch.answer_width + 1  # 0 is Hugging Face's "all"
    output = model(logits_to_keep=keep, use_cache=False, **inputs)
    losses = padded_nll(output.logits, batch.labels[:, -keep:])
    return losses / (batch.labels != -100).sum(1)


def shared_steps(users: Sequence[User], settings: TrialSettings) -> Iterator[list[list[Row]]]:
    """All users' steps together, each cut into padded passes by the token budget."""
    for rows in _steps(users, settings):
        lengths = [len(row.sample.tokens) for row in rows]
        chunks = padded_chunks(lengths, settings.tokens_per_step, fill=FILL)
        yield [[rows[i] for i in chunk] for chunk in chunks]


def packed_steps(users: Sequence[User], settings: TrialSettings) -> Iterator[list[Row]]:
    """The passes that the engine makes of all users' steps."""
    for rows in _steps(users, settings):
        lengths = [len(row.sample.tokens) for row in rows]
        for chunk in budget_chunks(lengths, settings.tokens_per_step):
            yield [rows[i] for i in chunk]


def _steps(users: Sequence[User], settings: TrialSettings) -> Iterator[list[Row]]:
    """Every user's next step, until all users are through."""
    for step in itertools.zip_longest(*(own_steps(user, settings) for user in users), fillvalue=[]):
        yield [
            Row(slot, sample, 1 / len(picked))
            for slot, picked in enumerate(step)
            for sample in picked
        ]
