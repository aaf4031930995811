"""The program that `accountant` starts: one question as JSON on stdin, one answer on stdout.

It alone imports dp-accounting, which has an environment of its own, and it imports nothing of PROPER.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import Any

TOLERANCE = 1e-3  # of a multiplier that is searched for


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Epsilon of a noise multiplier, or the multiplier for an epsilon and what that comes to.

    The event is `steps` times a Gaussian on a Poisson sample, a user or an item added or removed, accounted by
    privacy loss distributions (PLD, rounded so that epsilon is an upper bound).
    """
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    rate, steps, delta = question["sampling_rate"], question["steps"], question["delta"]

    def event(noise: float) -> Any:
        one = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))
        return dp.SelfComposedDpEvent(one, steps)

    noise = question.get("noise_multiplier")
    if noise is None:
        wanted = question["epsilon"]
        # Renyi accounting is quick and asks for more noise than PLD does, which is slow with little.
        guess = dp.LowerEndpointAndGuess(0.01, 1.0)
        above = dp.calibrate_dp_mechanism(RdpAccountant, event, wanted, delta, guess)
        within = dp.ExplicitBracketInterval(above / 2, above)
        noise = dp.calibrate_dp_mechanism(
            PLDAccountant, event, wanted, delta, within, tol=TOLERANCE
        )
    epsilon = PLDAccountant().compose(event(noise)).get_epsilon(delta)
    version = importlib.metadata.version("dp-accounting")
    return {
        "noise_multiplier": noise,
        "epsilon": epsilon,
        "accountant": f"dp-accounting {version}, PLD",
    }


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
