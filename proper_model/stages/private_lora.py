"""Stage 3c: what is a user's alone, as one private LoRA per user (PROPER section 3, eq. 11, 13).

    h = W_g(x, u) x + s B_u A_u x                (11)  `model.adapted_linear`
    A_u, B_u = argmin L_CE over the user's own history,
    W_u = W_p + s sum_n w'_n B_n A_n + s B_u A_u (13)

As an einsum, for the tokens t of row b, rank r, widths i to o: eq. 11 adds
`("bor,bri,bti->bto", B_u, A_u, x)`; every row has its own user's factors.

Every (user, learning rate) pair is one trial in a slot of its own, so all candidates train in the
same passes; a user keeps the learning rate and epoch with the lowest loss on own held-back items,
"no training" included, and then trains once more on all own items for as long. 3a trains its
provisional LoRAs with this too (docs/method.md 1.7). Without experts it is the baseline OPPU-mlp, with
the same number of trials and the same stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.cohort import Cohort
from proper_model.engine.folds import Choice, Samples, kept_epochs, train_and_choose
from proper_model.engine.slots import room_for
from proper_model.engine.trials import Trial, TrialResult, TrialSettings
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, base_pass, group_pass, personal_pass
from proper_model.model.user_lora import UserLora
from proper_model.progress import Steps
from proper_model.settings.presets import UserRouting
from proper_model.text.encoding import Encoder

# One user's factors without a slot: A [r, d_in] of every site, then B [d_out, r] of every site, then
# W_l [N, d_out] of every site where it is the user's own.
Factors = Sequence[Tensor]


@dataclass(frozen=True)
class LoraFit:
    """How one user's adapter was chosen; losses per answer token on held-back items.

    Under a calibration `scale` is folded into B, `judged` is how many items confirmed it, and
    `doubted` says that they did not, so that there is no adapter.
    """

    learning_rate: float
    epochs: int
    loss_before: float
    loss_after: float
    trained: bool
    failed: bool
    scale: float = 1.0
    judged: int | None = None
    doubted: bool = False


def train_user_loras(
    model: AdaptedModel,
    encoder: Encoder,
    users: Sequence[Samples],
    *,
    embeddings: Tensor | None,
    routing: UserRouting,
    experts: bool,
    learning_rates: Sequence[float],
    settings: TrialSettings,
    starts: Sequence[Factors] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
) -> tuple[UserLora, list[LoraFit]]:
    """Train and choose; leaves `model.lora` holding one slot a user, which is also returned.

    Args:
        embeddings: `[U, tables, e]`, frozen here; None without experts.
        starts: every user's factors to go on from; None: fresh ones, which change nothing yet.
            "No training" then means to keep them.
    """
    stage = LoraTrials(model, encoder, embeddings, routing, experts, settings, starts, progress)
    chosen, adapters = train_and_choose(
        users, learning_rates, stage.run, refit=settings.refit, checkpoint=checkpoint
    )
    kept = [choice.trials[0] if choice.trials else None for choice in chosen]
    fresh = model.new_user_lora([user.seed for user in users], experts=experts)
    model.lora = _take(fresh, adapters, kept, starts)
    model.lora.requires_grad_(False)
    fits = [
        _fit(choice, trained=bool(user.folds)) for user, choice in zip(users, chosen, strict=True)
    ]
    return model.lora, fits


@dataclass(frozen=True)
class LoraTrials:
    """What all trials of one call share; `embeddings` and `starts` have one a user, or are None."""

    model: AdaptedModel
    encoder: Encoder
    embeddings: Tensor | None
    routing: UserRouting
    experts: bool
    settings: TrialSettings
    starts: Sequence[Factors] | None
    progress: Steps | None

    def run(
        self, trials: Sequence[Trial], owners: Sequence[int], checkpoint: Checkpoint | None
    ) -> tuple[list[TrialResult], list[Tensor]]:
        """Train an adapter for every trial, from its start; `owners` are positions of users.

        Returns results and the adapters, in the order of `UserLora.flat`, each [trials, ...].
        """
        own = None if self.embeddings is None else self.embeddings[list(owners)]
        slots = room_for(len(trials), self.settings.slots, checkpoint)
        self.model.lora = self.model.new_user_lora([0] * slots, experts=self.experts)
        parameters = self.model.lora.flat()
        for parameter in parameters:
            parameter.requires_grad_(True)

        def start(trial: int) -> Factors:
            if self.starts is not None:
                return self.starts[owners[trial]]
            return self.fresh(trials[trial].seed)

        def make_pass(rows: Tensor, residents: Tensor) -> Pass:
            return self.personal(rows, None if own is None or not len(own) else own[residents])

        cohort = Cohort(
            self.model,
            self.encoder,
            trials,
            parameters,
            start,
            make_pass,
            self.settings,
            checkpoint=checkpoint,
        )
        return cohort.run(self.progress), cohort.best

    def personal(self, rows: Tensor, embeddings: Tensor | None) -> Pass:
        """The pass with private adapters; `embeddings` [slots, tables, e]."""
        return personal_pass(
            rows, embeddings=embeddings, routing=self.routing, experts=self.experts
        )

    def below(self, rows: Tensor, embeddings: Tensor | None) -> Pass:
        """The pass that adapters are added to: stage 2, and without experts the merged base."""
        if self.experts:
            assert embeddings is not None
            return group_pass(rows, embeddings)
        return base_pass(rows)

    def fresh(self, seed: int) -> list[Tensor]:
        """Factors that change nothing yet: A drawn by seed, B zero, and a W_l where it is the user's."""
        lora = self.model.new_user_lora([seed], experts=self.experts)
        return [factor.detach()[0] for factor in lora.flat()]

    @torch.no_grad()
    def hold(self, adapters: Sequence[Factors], scales: Sequence[float] | None = None) -> UserLora:
        """Put adapters into `model.lora`, one a slot, each B times its scale; the stack."""
        lora = self.model.new_user_lora([0] * len(adapters), experts=self.experts)
        for number, stack in enumerate(lora.flat()):
            for slot, factors in enumerate(adapters):
                stack[slot] = factors[number].to(stack)
        for stack in lora.b if scales is not None else ():
            stack *= stack.new_tensor(scales)[:, None, None]
        lora.requires_grad_(False)
        self.model.lora = lora
        return lora


def _fit(choice: Choice, *, trained: bool) -> LoraFit:
    result = choice.result
    before = result.losses[0] if result.losses else float("nan")
    return LoraFit(
        learning_rate=choice.learning_rate,
        epochs=kept_epochs(result),
        loss_before=before,
        loss_after=before if result.failed else result.best_loss,
        trained=trained,
        failed=result.failed,
    )


@torch.no_grad()
def _take(
    taken: UserLora,
    adapters: Sequence[Tensor],
    trials: Sequence[int | None],
    starts: Sequence[Factors] | None,
) -> UserLora:
    """`taken`, fresh, with the adapters of the given trials; where none is, what the user began with."""
    for number, new in enumerate(taken.flat()):
        for row, trial in enumerate(trials):
            if trial is not None:
                new[row] = adapters[number][trial].to(new)
            elif starts is not None:
                new[row] = starts[row][number].to(new)
    return taken
