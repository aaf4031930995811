"""What a run left behind: devices, predictions, times, results."""

__all__ = [
    "controls", "details", "devices", "environment", "phases", "results", "rundata", "timings",
]
