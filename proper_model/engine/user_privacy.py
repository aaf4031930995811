"""The Poisson-sampled Gaussian mechanism over whole users (DP-FedSGD, arXiv 1710.06963).

In a step every user u of U takes part with probability q, by a draw of the own. The user's gradient g_u,
over all trained tensors together, is shortened to norm C at most, and

    g = (sum over those drawn of g_u min(1, C / |g_u|)  +  z C N(0, I)) / (q U)

so nobody changes the sum by more than C, however many items they have, and the denominator says nothing of
who was drawn. q, z, C are settings, U is public (docs/method.md 1.12). Epsilon is `accounting`'s. The same
over single items of one person is `item_training`.

Draws and noise come from the operating system's random source. Normal numbers are made from it by Box and
Muller's method in float64: they are those of a computer, not of the mathematics, and an attack on
their last digits (Mironov, CCS 2012) is not defended against.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


class Chance(Protocol):
    """Where draws and noise come from."""

    def uniform(self, count: int) -> Numbers:
        """So many independent numbers, uniform in [0, 1)."""


class SystemChance:
    """The operating system's random source: nobody can draw the same again."""

    def uniform(self, count: int) -> Numbers:
        bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
        return bits.astype(np.float64) * 2.0**-53


class SeededChance:
    """A function of a seed, for tests and experiments that must repeat. Protects nobody."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def uniform(self, count: int) -> Numbers:
        return self._generator.random(count)


def normal(chance: Chance, count: int) -> Numbers:
    """So many independent standard normal numbers (Box and Muller 1958)."""
    half = -(-count // 2)
    radius = np.sqrt(-2 * np.log1p(-chance.uniform(half)))  # of a number in (0, 1]
    angle = 2 * math.pi * chance.uniform(half)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def poisson_sample(chance: Chance, users: int, rate: float) -> list[int]:
    """Those of `users` who take part: each with probability `rate`, so how many varies, down to none."""
    return np.flatnonzero(chance.uniform(users) < rate).tolist()


def draw_items(chance: Chance, items: Sequence[int], most: int) -> list[int]:
    """All of a user's items, or `most` of them, drawn without putting back."""
    if len(items) <= most:
        return list(items)
    order = np.argsort(chance.uniform(len(items)))[:most]
    return [items[i] for i in sorted(order.tolist())]


class ClippedSum:
    """Sum of users' gradients, or of items', each shortened to norm `clip_norm` at most, in float64.

    Args:
        parameters: all that is trained; a norm is over all of them together.
    """

    def __init__(self, parameters: Sequence[Tensor], clip_norm: float) -> None:
        self.parameters, self.clip_norm = list(parameters), clip_norm
        self.sums = [torch.zeros_like(p, dtype=torch.float64) for p in self.parameters]

    @torch.no_grad()
    def add(self) -> float:
        """Take up what stands in `grad` as one user's, and clear it; returns its norm.

        A gradient that is not finite counts as zero: an error would tell that this user was drawn.
        """
        found = [None if p.grad is None else p.grad.double() for p in self.parameters]
        squares = [g.square().sum() for g in found if g is not None]
        norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        if math.isfinite(norm) and norm > 0:
            factor = min(1.0, self.clip_norm / norm)
            for total, gradient in zip(self.sums, found, strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=factor)
        for p in self.parameters:
            p.grad = None
        return norm

    @torch.no_grad()
    def add_each(self, gradients: Sequence[Tensor]) -> None:
        """Take up R gradients at once, [R, ...] for every parameter; one that is not finite counts as zero."""
        squares = [gradient.double().flatten(1).square().sum(1) for gradient in gradients]
        norms = torch.stack(squares).sum(0).sqrt()  # [R]
        counted = norms.isfinite() & (norms > 0)
        factors = (self.clip_norm / norms[counted]).clamp(max=1.0)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total += torch.einsum("r,r...->...", factors, gradient[counted].double())

    @torch.no_grad()
    def release(self, chance: Chance, *, noise_multiplier: float, expected: float) -> None:
        """Write the noisy sum over `expected`, for users q U, into every parameter's `grad`."""
        deviation = noise_multiplier * self.clip_norm
        for p, total in zip(self.parameters, self.sums, strict=True):
            if deviation > 0:
                noise = torch.from_numpy(normal(chance, total.numel())).view(total.shape)
                total = total + deviation * noise.to(total.device)
            p.grad = (total / expected).to(p.dtype)
