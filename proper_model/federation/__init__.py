"""What coordinator and nodes agree on: the protocol, the run plan, step times, machine facts."""

__all__ = ["machine", "protocol", "run_plan", "step_clock"]
