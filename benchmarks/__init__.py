"""Benchmarks of the engine that trains many users' private adapters: ratios, never timed tests."""
