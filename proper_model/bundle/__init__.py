"""The signed format of a release and whom a device trusts; no torch."""

__all__ = [
    "content_policy", "file_names", "folder_names", "latest", "limits", "manifest", "public_keys",
    "signatures", "signed_bundle", "signed_time", "trusted_root",
]
