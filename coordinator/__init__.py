"""Server side: trains the pooled stages, signs and releases bundles."""
