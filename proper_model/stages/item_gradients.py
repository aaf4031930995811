"""What one item says of its owner: the gradient of a private LoRA at its start, in a few numbers.

A private LoRA begins with B_u = 0 (eq. 11), and the first step of its training moves B_u against the
gradient of the items' losses. That gradient, [o, r] a site, is how the item asks the model to change
for this person; items of people who are alike ask for alike changes. It is taken over stage 1, before
any expert, with one A for all people, and sketched: random matrices of a fixed seed cut o to `WIDTH`,
then all sites together to `FEATURES` numbers. The sketch is linear, so that sums over items are what they
would be; no gradient in full is stored or shipped, and everybody can compute the same (docs/method.md 1.5 f).

Letters: I items, R rows of a pass, F features, q = WIDTH, r rank, i and o widths of a site.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.engine.memory import in_parts
from proper_model.engine.recompute import recomputing
from proper_model.engine.trials import TrialSettings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Encoded, budget_chunks
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import personal_pass
from proper_model.model.user_lora import GivenLora
from proper_model.progress import Steps
from proper_model.settings.presets import UserRouting
from proper_model.text.encoding import Encoder

FEATURES = 256  # F
WIDTH = 16  # q
SKETCH_SEED = 0  # part of the method, as a release is useless under another sketch
MOST_ROWS = 64  # every row has a LoRA of its own, so that its gradient stands apart


def item_gradients(
    model: AdaptedModel,
    encoder: Encoder,
    items: Sequence[Encoded],
    settings: TrialSettings,
    *,
    progress: Steps | None = None,
) -> Tensor:
    """The sketched gradient of every item's loss (eq. 4) over stage 1: [I, F], float32, on the CPU.

    Of `settings` only what bounds a pass counts: tokens a step, slots (each a row) and `recompute`. A
    result depends on its item and the base alone. The model's user LoRA is as it was afterwards.
    """
    rows = min(settings.slots or MOST_ROWS, MOST_ROWS)
    found = torch.zeros(len(items), FEATURES)
    sketch = _Sketch(model)
    done = 0

    def run(chunk: Sequence[int]) -> None:
        nonlocal done
        found[list(chunk)] = sketch.of(encoder, [items[i] for i in chunk]).cpu()
        done += len(chunk)
        if progress:
            progress(done, len(items))

    before = model.lora
    try:
        with model.attached(), recomputing(model, active=settings.recompute):
            for wide in budget_chunks(
                [len(item.tokens) for item in items], settings.tokens_per_step
            ):
                for first in range(0, len(wide), rows):
                    in_parts(wide[first : first + rows], run, model.device)
    finally:
        model.lora = before
    return found


class _Sketch:
    """What all passes share: A of every site, and the matrices that cut its gradients."""

    def __init__(self, model: AdaptedModel) -> None:
        self.model = model
        drawn = model.new_user_lora([SKETCH_SEED], experts=False)
        self.a = [factor.detach() for factor in drawn.a]  # [1, r, i]
        self.b = [factor.detach() for factor in drawn.b]  # [1, o, r], zero
        self.matrices = [
            tuple(matrix.to(model.device) for matrix in _matrices(number, *factor.shape[1:]))
            for number, factor in enumerate(self.b)
        ]

    def of(self, encoder: Encoder, items: Sequence[Encoded]) -> Tensor:
        """The sketched gradients of the items of one pass, [R, F]."""
        rows, model = len(items), self.model
        factors = [b.repeat(rows, 1, 1).requires_grad_(True) for b in self.b]
        model.lora = GivenLora([a.repeat(rows, 1, 1) for a in self.a], factors)
        batch = encoder.batch(items, range(rows), device=model.device)
        now = personal_pass(
            batch.slots, embeddings=None, routing=UserRouting.USER_AWARE, experts=False
        )
        losses = model.answer_loss(batch, now)
        # Rows share no factor, so the gradient of the sum holds each row's own.
        found = torch.autograd.grad(losses.sum(), factors)
        sketch = torch.zeros(rows, FEATURES, device=model.device)
        for gradient, (cut, mix) in zip(found, self.matrices, strict=True):
            low = torch.einsum("bor,oq->bqr", gradient.float(), cut)
            sketch += low.flatten(1) @ mix
        return sketch


def _matrices(number: int, width: int, rank: int) -> tuple[Tensor, Tensor]:
    """[o, q] and [q r, F] of a site: entries of variance 1/q and 1/F, so that lengths keep."""
    generator = torch.Generator().manual_seed(mix_seed(SKETCH_SEED, 7, number))
    cut = torch.randn(width, WIDTH, generator=generator) / WIDTH**0.5
    mix = torch.randn(WIDTH * rank, FEATURES, generator=generator) / FEATURES**0.5
    return cut, mix
