"""The frozen base model: found, read within bounds, loaded, quantized, merged with stage 1."""
