"""One personalization: from anybody's history to an embedding, an adapter and answers."""
