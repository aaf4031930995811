"""One user's personal model as one LoRA a linear, for export: exact, or with a measured loss.

Where the mixture depends on the user alone (preset `device`) it is N numbers, so

    s * sum_n w_n B_n A_n + s * B_u A_u  =  s * [sqrt(w_1) B_1 ... B_u] [sqrt(w_1) A_1; ...; A_u],

exactly, with rank (N + 1) r (docs/method.md 1.7, rule 6); a factor of the experts' sum goes with w_n.
Over a release of stage 1 alone there is B_u A_u only.
Where routing reads tokens nothing can be merged, so it is refused unless the caller asks for an
approximation: the mean routing weights over the user's own items, folded as if they were constant,
with the loss of doing so measured on the same items. So is that of answering with stage 3 alone where
the release mixes it with stage 2 in probability (docs/method.md 1.9), which no LoRA can do.

Letters: S sites, N experts, r rank, e embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.answering.pass_memory import inference_tokens
from proper_model.answering.routing_reader import routing_weights
from proper_model.engine.memory import in_parts
from proper_model.errors import ConfigError, ExportError
from proper_model.kernels.packing import Batch, Encoded, budget_chunks, pack, token_nll
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.load_user import private_tensor, stack_adapters
from proper_model.model.mixture import ALONE, Mixture
from proper_model.model.passes import Pass, group_pass, personal_pass
from proper_model.model.routing import merge, user_logits
from proper_model.release.contents import Release
from proper_model.settings.presets import (
    EmbeddingTables,
    RouterMerge,
    RouterSharing,
    RouterText,
    Structure,
    UserRouting,
)


@dataclass(frozen=True)
class FoldReport:
    """What an export loses, on samples of the user's own.

    Attributes:
        exact_nll, folded_nll: mean loss of an answer token, in nats, as PROPER answers and folded.
        items: how many samples.
        largest_logit_difference: largest absolute one at any answer token; of log-probabilities
            where answers are mixed.
        routed: whether the mean mixture of experts, over these samples, stands for routing by token.
        share: weight of stage 3 and temperature in PROPER's answers; 1 and 1 in the export's.
    """

    exact_nll: float
    folded_nll: float
    items: int
    largest_logit_difference: float
    routed: bool = True
    share: tuple[float, float] = ALONE

    @property
    def mixed(self) -> bool:
        """Whether PROPER answers otherwise than by stage 3 alone."""
        return self.share != ALONE


@dataclass(frozen=True)
class UserFold:
    """One user's mixture and private LoRA in one.

    Attributes:
        factors: per site path, A `[(N+1)r, d_in]` and B `[d_out, (N+1)r]`, float64 on the
            CPU. The update of the linear is `B A`: the scale is in B.
        report: what is lost; None where nothing is.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    report: FoldReport | None


def mixture(model: AdaptedModel, embedding: Tensor) -> Tensor:
    """One user's routing weights at every site: embedding [tables, e] -> [S, N].

    Raises ConfigError if the preset routes by token.
    """
    if not model.structure.foldable:
        raise ConfigError(
            f"preset '{model.structure.name}' routes by token, so a user's mixture is not constant "
            "and cannot be folded",
            hint="use preset 'device'",
        )
    rows = []
    for number in range(len(model.sites)):
        logits = user_logits(model.user_weight(number), embedding[None, model.table(number)])
        rows.append(merge(None, logits, RouterMerge.SUM)[0])
    return torch.stack(rows)


def fold_user(
    model: AdaptedModel, embedding: Tensor, slot: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per site path, factors (A [(N+1)r, d_in], B [d_out, (N+1)r]) of the user in `slot`.

    The linear's update is `structure.scale * B A`. Computed in the wider of the embedding's dtype
    and the model's.
    """
    if model.structure.population_only:
        return {
            site.path: (a[slot].detach(), b[slot].detach())
            for site, a, b in zip(model.sites, model.lora.a, model.lora.b, strict=True)
        }
    return fold_mixture(model, mixture(model, embedding), slot)


@torch.no_grad()
def fold_mixture(
    model: AdaptedModel, weights: Tensor, slot: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """`fold_user` with given routing weights [S, N], not negative."""
    folded = {}
    for number, (site, own) in enumerate(zip(model.sites, weights, strict=True)):
        experts = model.expert(number)
        root = (own * model.structure.expert_factor).sqrt()[:, None, None]
        a = torch.cat([(root * experts.a).flatten(0, 1), model.lora.a[number][slot]])
        b = torch.cat(
            [(root * experts.b).permute(1, 0, 2).flatten(1), model.lora.b[number][slot]], dim=1
        )
        folded[site.path] = (a, b)
    return folded


def fold_release(
    release: Release,
    tensors: Mapping[str, Tensor],
    *,
    approximate: bool = False,
    samples: Sequence[Encoded] = (),
    share: tuple[float, float] = ALONE,
) -> UserFold:
    """Fold one user's stage 3.

    Args:
        tensors: the user's `embedding` and `lora.<site>.A|B`.
        approximate: where no constant mixture exists, fold its mean over `samples`, the user's own.
        share: weight of stage 3 and temperature in the user's answers. What is folded is stage 3
            alone; with another share than 1 and 1, what that loses is measured on `samples`.

    Raises ExportError: the release routes by token, and approximation was not asked for, or there is
    something to measure and no sample; StateError: a private tensor is missing or does not fit.
    """
    exact = release.structure.foldable
    if not exact and not approximate:
        raise ExportError(
            f"preset '{release.structure.name}' routes by token, so what one user got from the "
            "experts is not one LoRA and cannot be exported exactly",
            hint="ask for the approximate export (--approximate), which measures what it loses; or "
            "adapt on a release of preset 'device' or 'calibrated'",
        )
    measured = not exact or share != ALONE
    if measured and not samples:
        raise ExportError(
            "what an export loses is measured on own items, and there are none",
            hint="give the history that the adapter was made from",
        )
    model = release.model()
    stack_adapters(model, [tensors])
    embedding = private_tensor(tensors, "embedding").to(model.device)
    measure = _Measure(release, model, embedding, samples, share) if measured else None
    if exact:
        # Wider than any model computes in, so that folding itself costs nothing.
        factors = fold_user(model, embedding.double(), 0)
    else:
        assert measure is not None
        factors = fold_mixture(model, measure.mean_weights(), 0)
    absorbed = {
        path: (a.double().cpu(), (b.double() * model.structure.scale).cpu())
        for path, (a, b) in factors.items()
    }
    return UserFold(absorbed, None if measure is None else measure.compare(absorbed))


class _Measure:
    """Passes over the user's samples, in chunks that fit memory."""

    def __init__(
        self,
        release: Release,
        model: AdaptedModel,
        embedding: Tensor,
        samples: Sequence[Encoded],
        share: tuple[float, float],
    ) -> None:
        self.model, self.samples, self.share = model, samples, share
        self.embeddings = embedding[None]
        self.answering = Mixture(
            self.exact_pass, lambda slots: group_pass(slots, self.embeddings), [share]
        )
        self.tokens = inference_tokens(
            None,
            model,
            users=1,
            longest=max(len(sample.tokens) for sample in samples),
            tokens=release.settings.tokens_per_step,
            passes=self.answering.passes,
        )

    def exact_pass(self, slots: Tensor) -> Pass:
        routing = self.model.structure.user_routing
        return personal_pass(slots, embeddings=self.embeddings, routing=routing, experts=True)

    def mean_weights(self) -> Tensor:
        """Routing weights [S, N]: the mean over items of every item's mean over its tokens."""
        structure = self.model.structure
        total = torch.zeros(len(self.model.sites), structure.experts, dtype=torch.float64)

        def add(batch: Batch) -> None:
            weights = routing_weights(self.model, batch, self.exact_pass(batch.slots))
            total.add_(weights.double().sum(1))

        self._each(add)
        return (total / len(self.samples)).to(self.model.device)

    def compare(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> FoldReport:
        """The model as it answers against its fold, at every answer token."""
        folded = _folded_model(self.model.base, factors)
        exact_nll = folded_nll = largest = 0.0

        @torch.no_grad()
        def add(batch: Batch) -> None:
            nonlocal exact_nll, folded_nll, largest
            ours = self.answering.over(batch.slots).answer_logits(self.model, batch)
            folded_pass = personal_pass(
                batch.slots, embeddings=None, routing=UserRouting.USER_AWARE, experts=False
            )
            theirs = folded.answer_logits(batch, folded_pass)
            losses = [token_nll(logits, batch.answers).double().sum() for logits in (ours, theirs)]
            if self.share != ALONE:  # logits of two passes have no common zero
                ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
            difference = (ours.double() - theirs.double()).abs().max()
            # All of it computed: what runs out of memory runs out before.
            exact_nll, folded_nll = exact_nll + losses[0].item(), folded_nll + losses[1].item()
            largest = max(largest, difference.item())

        self._each(add)
        count = sum(sample.answer_tokens for sample in self.samples)
        return FoldReport(
            exact_nll / count,
            folded_nll / count,
            len(self.samples),
            largest,
            routed=not self.model.structure.foldable,
            share=self.share,
        )

    def _each(self, add: Callable[[Batch], None]) -> None:
        """Every sample once, many in a pass."""
        device = self.model.device

        def run(chunk: Sequence[int]) -> None:
            rows = [self.samples[i] for i in chunk]
            add(pack(rows, [0] * len(rows), device=device))

        for chunk in budget_chunks([len(s.tokens) for s in self.samples], self.tokens):
            in_parts(chunk, run, device)


def _folded_model(base: object, factors: Mapping[str, tuple[Tensor, Tensor]]) -> AdaptedModel:
    """The folded LoRA as a plain user LoRA of slot 0, around the same base."""
    rank = len(next(iter(factors.values()))[0])
    structure = Structure(
        name="folded",
        router_text=RouterText.NONE,
        router_sharing=RouterSharing.TIED,
        embedding_tables=EmbeddingTables.ONE,
        user_routing=UserRouting.USER_AWARE,
        experts=1,
        rank=rank,
        alpha=float(rank),  # scale 1: the factors hold it
        embedding_dim=1,
    )
    model = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(0))
    tensors = {f"lora.{path}.A": a for path, (a, _) in factors.items()}
    tensors |= {f"lora.{path}.B": b for path, (_, b) in factors.items()}
    stack_adapters(model, [tensors])
    model.requires_grad_(False)
    return model
