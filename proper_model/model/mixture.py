"""Two passes whose answers are mixed: what the calibration of a release says (docs/method.md 1.9).

    p(token) = softmax(log(w p_above(token) + (1 - w) p_below(token)) / T)

Token by token, each pass with all tokens so far. Every person has a weight w and a temperature T.
Whoever has w = 1 needs the above pass alone, and with T = 1 has its logits untouched.

Letters: U user slots, R rows, K predictions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proper_model.kernels.layout import routing_dtype
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass

MakePass = Callable[[Tensor], Pass]  # from row slots
ALONE = (1.0, 1.0)  # w and T of answers that one pass gives


def mixed(above: Tensor, below: Tensor, weight: float | Tensor) -> Tensor:
    """log(w exp(above) + (1 - w) exp(below)), elementwise; at w of 0 and 1 exactly one of them."""
    w = torch.as_tensor(weight, dtype=above.dtype, device=above.device)
    return torch.logaddexp(above + w.log(), below + (1 - w).log())


@dataclass(frozen=True)
class Mixture:
    """How the people of a batch are answered.

    Attributes:
        above: the pass that weighs w; below: the other one, None where nobody needs it.
        shares: w and T by slot, U of them; empty: w = T = 1 for everybody.
    """

    above: MakePass
    below: MakePass | None = None
    shares: Sequence[tuple[float, float]] = ()

    def __post_init__(self) -> None:
        for weight, temperature in self.shares:
            assert 0 <= weight <= 1
            assert temperature > 0
            assert weight == 1 or self.below is not None

    @classmethod
    def of(cls, made: MakePass | Mixture) -> Mixture:
        """A pass by itself as a mixture; a mixture as it is."""
        return made if isinstance(made, Mixture) else cls(made)

    def needs(self, slot: int) -> tuple[bool, bool]:
        """Whether a person's answers need the above pass, and whether the below one."""
        weight, _ = self._share(slot)
        return weight > 0, weight < 1

    @property
    def passes(self) -> int:
        """How many passes an answer takes at most."""
        return max((sum(self.needs(slot)) for slot in range(len(self.shares))), default=1)

    def _share(self, slot: int) -> tuple[float, float]:
        return self.shares[slot] if self.shares else ALONE

    def over(self, slots: Tensor) -> MixedRows:
        """The passes over rows of given slots [R] and what mixes them."""
        if not self.shares:
            return MixedRows((self.above(slots),), None, None)
        shares = torch.tensor([self._share(slot) for slot in slots.tolist()], dtype=torch.float64)
        weights, temperatures = shares.unbind(1)
        passes = []
        if bool((weights > 0).any()):
            passes.append(self.above(slots))
        if bool((weights < 1).any()):
            assert self.below is not None
            passes.append(self.below(slots))
        mixed, tempered = len(passes) > 1, bool((temperatures != 1).any())
        return MixedRows(
            tuple(passes),
            weights.to(slots.device) if mixed else None,
            temperatures.to(slots.device) if tempered else None,
        )


@dataclass(frozen=True)
class MixedRows:
    """The passes that R rows need, and w and T of each row; None: all 1.

    `weights` is None for one pass, be it the above or the below.
    """

    passes: tuple[Pass, ...]
    weights: Tensor | None
    temperatures: Tensor | None

    def with_prompts(self, prompt_mask: Tensor) -> MixedRows:
        """The same where text is generated: the passes know which tokens are prompts."""
        return replace(
            self, passes=tuple(replace(one, prompt_mask=prompt_mask) for one in self.passes)
        )

    @torch.no_grad()
    def logits(self, found: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """What a softmax turns into the answer's probabilities: [K, V].

        Args:
            found: logits [K, V] of every pass; those of one pass without temperature come back.
            rows: [K] row of each prediction; None: one a row, in order.
        """
        logits = found[0]
        wide = routing_dtype(logits)
        if self.weights is not None:
            above, below = (own.to(wide).log_softmax(-1) for own in found)
            logits = mixed(above, below, self._column(self.weights, rows))
        if self.temperatures is not None:
            logits = logits.to(wide) / self._column(self.temperatures, rows).to(wide)
        return logits

    def _column(self, values: Tensor, rows: Tensor | None) -> Tensor:
        return (values if rows is None else values[rows])[:, None]

    def answer_logits(self, model: AdaptedModel, batch: Batch) -> Tensor:
        """`logits` at the answer tokens of a packed batch, [K, V]."""
        found = [model.answer_logits(batch, one) for one in self.passes]
        return self.logits(found, batch.answer_rows)
