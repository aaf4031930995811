"""The commands of `proper`, one idea a file; `client.cli` puts them together."""

__all__ = [
    "adapt", "base", "bundle", "chat", "config", "doctor", "evaluate", "examples", "export", "forget", "generate",
    "import_backup", "inspect", "new_task", "options", "rebase", "serve", "settling", "start", "training_run", "update",
    "vault",
]
