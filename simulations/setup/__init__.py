"""A run before it starts: options, data, device folders, cost, placement."""

__all__ = [
    "cli_options", "columns", "costs", "dataset_people", "dataset_rows", "documents", "estimate", "examples", "fetch",
    "options", "placement", "prepare", "run_folder", "sources",
]
