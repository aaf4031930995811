"""One personalization: from anybody's history to an embedding, an adapter and answers."""

__all__ = [
    "adapting", "answering", "arms", "cost", "disk_cost", "evaluation", "forgetting", "learner",
    "load_for_training", "replacing", "state", "state_check", "stores", "updating", "workspace",
]
