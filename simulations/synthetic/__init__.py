"""Populations whose truth is known, and a base small enough for a demo."""
