"""The signed format of a release and whom a device trusts; no torch."""
