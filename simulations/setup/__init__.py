"""A run before it starts: options, data, device folders, cost, placement."""

__all__ = [
    "calibrate", "cli_options", "costs", "estimate", "fetch", "next_commands", "options",
    "placement", "prepare", "run_folder", "sources",
]
