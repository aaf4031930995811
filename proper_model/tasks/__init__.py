"""Tasks and records: how a history becomes prompts, answers and labels."""
