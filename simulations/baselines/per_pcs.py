"""PER-PCS: a user's LoRA put together from those of a few others (arXiv 2406.10471; docs/method.md 2.4).

    anchors    people cut into k clusters by their histories; of each the one with the longest
    pieces     A_k, B_k, a LoRA an anchor; then with it frozen a gate vector g_k a linear, by which
               h = W_p x + s sigmoid(g_k . x) B_k A_k x
    a user     score_k = mean over the labels' tokens of LN(x) . LN(g_k) / sqrt(i)
               w = softmax over the best three, 0 for others; A_u = sum_k w_k A_k, B_u = sum_k w_k B_k

Nothing is trained for a user: one pass over the own items finds the weights. Anchors share their
LoRAs, so people must agree to that.

Rank 8, alpha 8 on q, k, v and o, three pieces a linear, at most 200 steps for gates, as in the source.
DEVIATIONS:
    - clusters by the base's own hidden states (`item_vectors`), not by those of DeBERTa-v3-large;
    - k is the root of the number of pooled people, at most the source's 50, since a set here has tens or
      hundreds of them; an anchor needs as many items as a device's LoRA does, not more than ten;
    - an anchor's LoRA is tuned as a device's is (`under_pass`), not 100 steps at 2e-5;
    - scores are means over the whole history and make one set of weights; the source averages those
      of its batches, which depends on how a history is cut.

An anchor is 8 (i + o) + i numbers in each linear from width i to o, 104,448 over mini-llama; a user's
LoRA follows from k weights a linear. Two passes over the base read a user's items and answer; nothing else
grows with the number of users.

Letters: K anchors, U users, S sites, r rank, i input width, o output width, M tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from proper_model.engine import Checkpoint, Cohort, Samples, Trial, TrialSettings
from proper_model.errors import TrainingError
from proper_model.evaluation import Prediction
from proper_model.kernels import Encoded, Layout, budget_chunks
from proper_model.model import AdaptedModel, Pass, UserLora, base_pass
from proper_model.progress import Steps
from proper_model.text import Encoder
from simulations.baselines.arm import Benchmark
from simulations.baselines.item_vectors import item_vectors
from simulations.baselines.under_pass import (
    own_pass,
    predict_under,
    private_model,
    split_users,
    train_loras,
)

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK, ALPHA, DROPOUT = 8, 8.0, 0.05
MOST_ANCHORS = 50
PIECES = 3  # anchors that a linear of a user is made of
GATE_STEPS, GATE_EPOCHS, GATE_BATCH, GATE_RATE = 200, 8, 4, 1e-2


@dataclass(frozen=True)
class PerPcs:
    """A LoRA a test user, merged from anchors' pieces."""

    name: str = "per-pcs"

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query.

        Raises:
            TrainingError: no pooled user has enough items to be an anchor.
            DataError: an item does not fit the task.
        """
        model = private_model(given, TARGETS, rank=RANK, alpha=ALPHA)
        encoder, tokens = given.release.encoder(), given.release.settings.tokens_per_step
        pooled = split_users(given, given.pooled)
        vectors = item_vectors(model, encoder, [user.items for user in pooled], tokens)
        chosen = anchors(pooled, vectors, given.seed)
        samples = [pooled[place] for place in chosen]
        lora, _ = train_loras(given, model, samples, phase="anchors", dropout=DROPOUT)
        gates = train_gates(
            model,
            encoder,
            samples,
            tokens,
            checkpoint=given.folder / "gates",
            progress=partial(given.progress, "gates"),
        )
        users = [own.items for own in split_users(given, given.users)]
        means = label_means(model, encoder, users, tokens)
        weights = [piece_weights(m, g) for m, g in zip(means, gates, strict=True)]
        model.lora = merged(model, lora, weights)
        return predict_under(given, model, own_pass, name=self.name)


def anchors(people: Sequence[Samples], vectors: Sequence[Tensor], seed: int) -> list[int]:
    """Of every cluster of people the one with the longest history, in the order of people.

    `vectors` are every person's items, [n, d]. Raises TrainingError if nobody has enough items.
    """
    able = [place for place, one in enumerate(people) if one.folds]
    if not able:
        raise TrainingError(
            "no pooled user has enough items to be an anchor",
            hint="pool more users, or raise --max-items",
        )
    points = torch.stack([vectors[place].mean(0) for place in able]).double().cpu().numpy()
    count = min(MOST_ANCHORS, max(1, round(math.sqrt(len(able)))))
    labels = KMeans(n_clusters=count, n_init=10, random_state=seed).fit(points).labels_
    longest: dict[int, int] = {}
    for place, label in zip(able, labels.tolist(), strict=True):
        best = longest.setdefault(label, place)
        if len(people[place].items) > len(people[best].items):
            longest[label] = place
    return sorted(longest.values())


def train_gates(
    model: AdaptedModel,
    encoder: Encoder,
    people: Sequence[Samples],
    tokens: int,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
) -> list[Tensor]:
    """Every anchor's gate at every site, S times [K, i]; `model.lora` holds the anchors', frozen."""
    count = len(people)
    gates = [torch.zeros(count, s.d_in, device=model.device) for s in model.sites]
    for gate in gates:
        gate.requires_grad_(True)

    def make_pass(rows: Tensor, residents: Tensor) -> Pass:
        now = own_pass(residents[rows])

        def open_by(number: int, x: Tensor, layout: Layout) -> Tensor:
            own = gates[number][rows].to(x.dtype)[layout.rows]  # [M, i]
            return (x * own).sum(1, keepdim=True).sigmoid()

        now.gate = open_by
        return now

    def epochs(items: int) -> int:
        return max(1, min(GATE_EPOCHS, GATE_STEPS // -(-items // GATE_BATCH)))

    cohort = Cohort(
        model,
        encoder,
        [
            Trial(one.items, (), GATE_RATE, one.seed, stop_epoch=epochs(len(one.items)))
            for one in people
        ],
        gates,
        lambda _: [torch.zeros(s.d_in) for s in model.sites],
        make_pass,
        TrialSettings(
            epochs=GATE_EPOCHS,
            batch_size=GATE_BATCH,
            dropout=0.0,
            weight_decay=0.0,
            warmup_ratio=0.0,
            max_grad_norm=1.0,
            tokens_per_step=tokens,
        ),
        checkpoint=checkpoint,
    )
    cohort.run(progress)
    return [best.to(model.device) for best in cohort.best]


@torch.no_grad()
def label_means(
    model: AdaptedModel, encoder: Encoder, people: Sequence[Sequence[Encoded]], tokens: int
) -> list[Tensor]:
    """Every site's mean layer-normed input over the tokens of a person's answers: S times [U, i].

    Under the population's model alone. Zeros for a person without items.
    """
    items = [(u, item) for u, own in enumerate(people) for item in own]
    sums = [torch.zeros(len(people), s.d_in, device=model.device) for s in model.sites]
    counts = torch.zeros(len(people), device=model.device)
    for chunk in budget_chunks([len(item.tokens) for _, item in items], tokens):
        rows = [items[i] for i in chunk]
        batch = encoder.batch([item for _, item in rows], [u for u, _ in rows], device=model.device)
        labels = ~batch.prompt_mask
        owners = batch.slots[batch.layout.rows[labels]]
        with inputs_of(model) as inputs:
            model.hidden_states(batch, base_pass(batch.slots))
        for total, x in zip(sums, inputs, strict=True):
            total.index_add_(0, owners, normed(x[labels].float()))
        counts.index_add_(0, owners, torch.ones_like(owners, dtype=counts.dtype))
    return [total / counts.clamp(min=1)[:, None] for total in sums]


@contextmanager
def inputs_of(model: AdaptedModel) -> Iterator[list[Tensor]]:
    """Filled by a pass with the input [M, i] of every site."""
    found: list[Tensor] = [torch.empty(0)] * len(model.sites)

    def keep(number: int, _: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        found[number] = args[0].reshape(-1, args[0].shape[-1])

    with model.attached(), ExitStack() as stack:
        for number, site in enumerate(model.sites):
            module = model.base.get_submodule(site.path)
            hook = module.register_forward_pre_hook(partial(keep, number))
            stack.callback(hook.remove)
        yield found


def normed(x: Tensor) -> Tensor:
    """Layer norm without weights along the last dimension."""
    return F.layer_norm(x, x.shape[-1:])


def piece_weights(means: Tensor, gates: Tensor) -> Tensor:
    """How much of every anchor a user gets at one site: means [U, i], gates [K, i] -> [U, K].

    All of a user without items are 0: the population's model answers.
    """
    scores = means @ normed(gates).to(means.dtype).T / math.sqrt(means.shape[1])
    best = scores.topk(min(PIECES, len(gates)), dim=1)
    weights = torch.zeros_like(scores).scatter(1, best.indices, best.values.softmax(1))
    return weights * means.any(1, keepdim=True)


@torch.no_grad()
def merged(model: AdaptedModel, anchor: UserLora, weights: Sequence[Tensor]) -> UserLora:
    """Users' LoRAs out of anchors': weights are S times [U, K]. A and B are averaged apart."""
    users = model.new_user_lora([0] * len(weights[0])).requires_grad_(False)
    for number, own in enumerate(weights):
        for mixed, factor in ((users.a, anchor.a), (users.b, anchor.b)):
            mixed[number].copy_(
                torch.einsum("uk,k...->u...", own.to(factor[number]), factor[number])
            )
    return users
