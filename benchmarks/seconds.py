"""What a round took, as a clock tells it. Needs neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """Wall and CPU seconds of training all of a contender's users once, and of setting them up.

    Wall seconds say what a user of the machine gets; CPU seconds of the process
    hardly change when others use the machine too.
    """

    wall_s: float
    cpu_s: float
    setup_wall_s: float
    setup_cpu_s: float
