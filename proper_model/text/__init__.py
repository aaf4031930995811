"""Text to tokens and back, so that no text of a person controls the model."""
