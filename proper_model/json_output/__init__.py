"""What programs print for other programs: the form of a document, and the schema of all of them."""

__all__ = ["document", "schema"]
