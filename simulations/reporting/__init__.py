"""Scores, tables, figures and the HTML report of a run."""

__all__ = ["figures", "report", "score", "tables"]
