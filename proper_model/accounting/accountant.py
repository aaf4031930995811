"""What (epsilon, delta) a Poisson-sampled Gaussian mechanism comes to: asked of dp-accounting (docs/method.md 1.12, 1.13).

dp-accounting wants attrs below 24, which would hold back whatever else needs a newer one, so it is not
installed beside PROPER: it has an environment of its own, `make accountant`, and `accountant_program`
runs there. Looked for in this order: the interpreter that `PROPER_ACCOUNTANT` names; `accountant/bin/python` below this
environment; this interpreter, where the extra `privacy` is installed in it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proper_model.errors import ConfigError

ENVIRONMENT = "accountant"  # below this environment's folder
VARIABLE = "PROPER_ACCOUNTANT"
PROGRAM = Path(__file__).with_name("accountant_program.py")
TIMEOUT_S = 600.0
_HINT = (
    "make it with `make accountant`; or install the extra `privacy` in an environment and name its "
    f"python in {VARIABLE}"
)


@dataclass(frozen=True)
class Spent:
    """What so many steps come to.

    Attributes:
        noise_multiplier: z; asked with a target, the one that was found.
        epsilon: infinite where the noise can be drawn again from the seed.
        accountant: which program said so.
    """

    noise_multiplier: float
    epsilon: float
    accountant: str


def account(
    *,
    sampling_rate: float,
    steps: int,
    delta: float,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
) -> Spent:
    """Epsilon of `steps` steps with noise of `noise_multiplier`, or z for a target `epsilon` in its place.

    Raises ConfigError where no accountant is installed, or it cannot answer.
    """
    question = {
        "sampling_rate": sampling_rate,
        "steps": steps,
        "delta": delta,
        "noise_multiplier": noise_multiplier,
        "epsilon": epsilon,
    }
    answer = _ask(json.dumps(question, sort_keys=True), interpreter())
    try:
        return Spent(
            float(answer["noise_multiplier"]), float(answer["epsilon"]), str(answer["accountant"])
        )
    except (KeyError, TypeError, ValueError):
        raise _failed("it answered something else than was asked") from None


def interpreter() -> str:
    """The python that has dp-accounting. Raises ConfigError with what to install."""
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{VARIABLE} names '{named}', which is no file", hint=_HINT)
        return named
    own = Path(sys.prefix) / ENVIRONMENT / "bin" / "python"
    if own.is_file():
        return str(own)
    if importlib.util.find_spec("dp_accounting") is not None:
        return sys.executable
    raise ConfigError(
        "privacy is asked for, and the accountant that says what it comes to (dp-accounting) is not "
        "installed",
        hint=_HINT,
    )


@functools.cache
def _ask(question: str, python: str) -> Any:
    # Isolated: neither the current folder nor the environment's variables add to what is imported.
    command = [python, "-I", str(PROGRAM)]
    try:
        done = subprocess.run(
            command, input=question, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(type(error).__name__) from error
    if done.returncode != 0:
        raise _failed((done.stderr.strip().splitlines() or ["no message"])[-1])
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise _failed("its answer is no JSON") from None


def _failed(why: str) -> ConfigError:
    return ConfigError(f"the accountant of privacy failed: {why}", hint=_HINT)
