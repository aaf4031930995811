"""A node of the federation: messages, pieces, what may leave, failures, devices' folders."""

__all__ = ["failures", "flower_app", "host_work"]
