"""Device side: verifies bundles and adapts them to one user, privately."""
