"""A person's history out of the files that people have."""
