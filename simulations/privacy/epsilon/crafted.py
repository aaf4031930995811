"""The mechanism alone, audited with users whose gradients are crafted: the strongest canaries there are.

Canary j's gradient is a multiple of the unit vector of a coordinate that nobody else's has, longer than C, so
that each one adds exactly C to a number of its own (the "Dirac" canaries of arXiv 2305.08846). Nothing else is
in that number, so the attacker's score is its sum over all steps, and no training is needed: what is
asked is `proper_model.engine.user_privacy` as stages 1 and 2 call it, draws, clipping and noise.

People's own gradients are far easier to hide; an epsilon that this cannot refute may still be too small, but
one that it refutes is wrong.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from proper_model.engine.user_privacy import Chance, ClippedSum, poisson_sample
from proper_model.settings import PrivacySettings

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
LONGER = 2.0  # than C: it is clipped


def crafted_scores(
    privacy: PrivacySettings, steps: int, inside: Flags, *, chance: Chance
) -> Floats:
    """Of every canary [m] the sum that an attacker reads off; `inside` [m]: who takes part.

    `privacy` has a noise multiplier.
    """
    canaries = len(inside)
    numbers = torch.zeros(canaries)
    total = np.zeros(canaries)
    for _ in range(steps):
        step = ClippedSum([numbers], privacy.clip_norm)
        for who in poisson_sample(chance, canaries, privacy.sampling_rate):
            if inside[who]:
                gradient = torch.zeros(canaries)
                gradient[who] = LONGER * privacy.clip_norm
                numbers.grad = gradient
                step.add()
        step.release(
            chance,
            noise_multiplier=privacy.z,
            expected=privacy.sampling_rate * canaries,
        )
        assert numbers.grad is not None
        total += numbers.grad.double().numpy()
    return total
