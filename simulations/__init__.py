"""Everything that needs more than one role at once: populations, runs, scores, reports."""
