"""Releases on this machine: fetched, verified, installed, loaded."""

__all__ = [
    "add", "base_facts", "bases", "content", "download", "install", "installed_list", "loading", "own",
    "pinned_root", "store", "verify",
]
