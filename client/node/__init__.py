"""A node of the federation: devices that simulated or real people hold."""

__all__ = [
    "cohort_adaptation", "cohort_prediction", "failures", "flower_app", "host_work",
    "simulated_state",
]
