"""A run before it starts: options, data, device folders, cost, placement."""
