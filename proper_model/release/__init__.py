"""What is released: the frozen model every device starts from, as files."""

__all__ = ["contents", "privacy_note", "recipe", "untrained"]
