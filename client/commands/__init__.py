"""The commands of `proper`, one idea a file; `client.cli` puts them together."""
