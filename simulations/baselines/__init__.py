"""Methods to compare with: each answers the test users' queries from what it is given, and no more."""

__all__ = ["arm", "registry"]
