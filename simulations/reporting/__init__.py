"""Scores, tables, figures and the HTML report of a run."""

__all__ = ["charts", "figures", "report", "score", "tables"]
