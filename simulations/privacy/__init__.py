"""What a release or a leaked part tells about the people behind it: attacks, scores, measures.

`commands`: `proper-sim privacy`. `population`, `targets`, `attacks`, `membership`: who, what, how, and
the summary over seeds. `measures`: AUC and its intervals over owners. `scores`: membership from one
model's token probabilities. `reference_attacks`: with shadow models (LiRA, RMIA). `exposure`: how far
a planted secret stands out. `one_run_audit`: a lower bound of epsilon from one training run.
"""

__all__ = ["commands", "measures"]
