"""A person's history out of the files that people have."""

__all__ = ["newest", "reading", "text_input"]
