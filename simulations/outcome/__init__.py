"""What a run left behind: devices, predictions, times, results."""

__all__ = [
    "controls", "details", "devices", "environment", "results", "rundata", "tensorboard_events",
    "timings",
]
