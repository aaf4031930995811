"""What was measured: its schema, and tables of it."""
