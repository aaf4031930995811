"""A node of the federation: devices that simulated or real people hold."""

__all__ = [
    "cohort_adaptation", "failures", "flower_app", "host_work",
]
