"""The commands of `proper`, one idea a file; `client.cli` puts them together."""

__all__ = [
    "adapt", "base", "bundle", "chat", "doctor", "evaluate", "export", "forget", "generate",
    "import_backup", "inspect", "new_task", "rebase", "serve", "start", "training_run", "update",
    "vault",
]
