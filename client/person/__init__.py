"""One personalization: from anybody's history to an embedding, an adapter and answers."""

__all__ = [
    "adapting", "answering", "cost", "disk_cost", "evaluation", "forgetting", "learner",
    "memory_choice", "replacing", "state", "state_check", "updating", "workspace",
]
