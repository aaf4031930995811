"""A run before it starts: options, data, device folders, cost, placement."""

__all__ = [
    "cli_options", "costs", "estimate", "examples", "fetch", "options", "placement", "prepare", "run_folder",
    "sources",
]
