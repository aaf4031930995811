"""Commands of `proper-coordinator`, one subject a file."""
