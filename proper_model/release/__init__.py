"""What is released: the frozen model every device starts from, as files."""

__all__ = ["contents", "recipe"]
