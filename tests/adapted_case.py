"""One adapted linear with all its parts, and its equation token by token: the oracle of every one-function form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.kernels.adapted import Scales
from proper_model.kernels.layout import Layout

LENGTHS = [3, 70, 7, 7, 64, 1]
WIDE, OUT, EXPERTS, RANK = 152, 136, 5, 4
P = 0.3
NAMES = ("x", "user_a", "user_b", "expert_a", "expert_b", "text", "through", "user")


@dataclass
class Case:
    """Inputs of one adapted linear in float64; what is None is left out."""

    base: torch.nn.Linear
    x: Tensor
    user_a: Tensor | None
    user_b: Tensor | None
    expert_a: Tensor | None
    expert_b: Tensor | None
    text: Tensor | None
    through: Tensor | None
    user: Tensor | None

    def leaves(self, names: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
        found = {name: getattr(self, name) for name in names}
        return {name: leaf for name, leaf in found.items() if leaf is not None}

    def narrow(
        self,
        dtype: torch.dtype,
        device: str = "cpu",
        parameters: torch.dtype = torch.float32,
    ) -> Case:
        """The same numbers as an engine gets them: x and the base in `dtype`, the rest in `parameters`."""
        base = torch.nn.Linear(WIDE, OUT).to(device, dtype).requires_grad_(False)
        base.load_state_dict(self.base.state_dict())
        kept = {
            name: leaf.detach().to(device, dtype if name == "x" else parameters, copy=True)
            for name, leaf in self.leaves().items()
        }
        everything = dict.fromkeys(NAMES) | {n: k.requires_grad_() for n, k in kept.items()}
        return Case(base, **everything)  # type: ignore[arg-type]


PARTS = {
    "all": NAMES,
    "experts routed by text and user": ("x", "expert_a", "expert_b", "text", "user"),
    "by the LoRA alone": ("x", "user_a", "user_b", "expert_a", "expert_b", "through"),
    "a LoRA alone": ("x", "user_a", "user_b"),
}


def make(names: tuple[str, ...]) -> Case:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        # Rounded, so that narrower types hold the same numbers.
        made = torch.randn(shape, generator=generator).bfloat16().double()
        return made.requires_grad_()

    base = torch.nn.Linear(WIDE, OUT).double().requires_grad_(False)
    base.load_state_dict({"weight": random(OUT, WIDE) / 16, "bias": random(OUT)})
    shapes = {
        "x": (sum(LENGTHS), WIDE),
        "user_a": (len(LENGTHS), RANK, WIDE),
        "user_b": (len(LENGTHS), OUT, RANK),
        "expert_a": (EXPERTS, RANK, WIDE),
        "expert_b": (EXPERTS, OUT, RANK),
        "text": (EXPERTS, WIDE),
        "through": (len(LENGTHS), EXPERTS, RANK),
        "user": (len(LENGTHS), EXPERTS),
    }
    small = {"text": 1 / 16, "through": 1 / 64, "user_a": 1 / 4, "expert_a": 1 / 4}
    made = {
        name: (random(*shape).detach() * small.get(name, 1)).requires_grad_()
        for name, shape in shapes.items()
        if name in names
    }
    return Case(base, **(dict.fromkeys(NAMES) | made))  # type: ignore[arg-type]


SCALES = Scales(own=2.0, experts=1.5 / (1 - P), kept=1 - P)


def equation(case: Case, mask: Tensor, scales: Scales = SCALES) -> Tensor:
    """The adapted linear token by token, as PROPER writes it."""
    made = []
    for m, row in enumerate(Layout.of(LENGTHS).rows.tolist()):
        x, dropped = case.x[m], case.x[m] * mask[m]
        h = case.base(x)
        logits = torch.zeros(EXPERTS, dtype=x.dtype)
        if case.text is not None:
            logits = logits + case.text @ x
        if case.user is not None:
            logits = logits + case.user[row]
        if case.user_a is not None:
            u = case.user_a[row] @ dropped / scales.kept
            h = h + scales.own * case.user_b[row] @ u
            if case.through is not None:
                logits = logits + case.through[row] @ u
        if case.expert_a is not None:
            for n, weight in enumerate(logits.softmax(0)):
                low = case.expert_a[n] @ dropped
                h = h + scales.experts * weight * (case.expert_b[n] @ low)
        made.append(h)
    return torch.stack(made)


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative distance."""
    there, wanted = found.detach().double().cpu(), expected.detach()
    return float((there - wanted).norm() / wanted.norm())
