"""One person's private state, encrypted on the disk."""
