"""The engine and its rivals, and what they train."""
