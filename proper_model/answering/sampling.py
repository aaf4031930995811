"""Drawing the next token instead of taking the most probable one: temperature and nucleus.

    p = softmax(z / T),   V_p = the fewest most probable tokens with Σ p ≥ top_p,   token ~ p restricted to V_p

z are the logits of the answer as it is calibrated (`model.mixture`); T = 1 draws from just that.
Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.

Letters: R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.errors import ConfigError

MOST_TEMPERATURE = 2.0  # OpenAI's
SEEDS = range(-(1 << 63), 1 << 63)  # what a generator of torch's takes


def seeded(seed: int | None) -> torch.Generator:
    """A generator for draws, on the CPU; without a seed, from the system's entropy."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities [R, V] with 0 outside of each row's nucleus; not normalized again.

    A token stays if those that are more probable have less than `top_p` together, so that the most
    probable one always does.
    """
    if top_p >= 1:
        return probabilities
    falling, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = falling.cumsum(-1) - falling
    return torch.zeros_like(probabilities).scatter(-1, order, falling.where(before < top_p, 0.0))


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: above 0, to 2.
        top_p: above 0, to 1.
        generator: on the CPU; every draw advances it.

    Raises ConfigError for values outside of these.
    """

    temperature: float
    generator: torch.Generator
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= MOST_TEMPERATURE:
            raise ConfigError(
                f"temperature: expected a number above 0, at most {MOST_TEMPERATURE:g}",
                hint="leave it out for the most probable answer",
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                "top_p: expected a number above 0, at most 1", hint="1 draws from all tokens"
            )

    def draw(self, logits: Tensor) -> Tensor:
        """A token of every row, [R], from logits [R, V]; on their device.

        The most probable ones where scores are no numbers, for whoever reads them to find out, or
        where the temperature is so low that no number holds them divided by it.
        """
        scaled = logits.detach().double().cpu() / self.temperature
        probabilities = scaled.softmax(-1)
        if not bool(probabilities.isfinite().all()):
            return logits.argmax(-1)
        kept = nucleus(probabilities, self.top_p)
        return torch.multinomial(kept, 1, generator=self.generator)[:, 0].to(logits.device)
