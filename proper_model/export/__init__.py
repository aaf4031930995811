"""One person's whole model for other programs: PEFT, merged, GGUF, MLX."""
