"""Scores, tables, figures and the HTML report of a run."""

__all__ = ["example", "figures", "report", "score", "tables", "validation_tables"]
