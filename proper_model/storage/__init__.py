"""Files and JSON: written whole or not at all, read within bounds."""

__all__ = ["canonical", "documents", "durable", "files", "json_stream", "new_folder"]
