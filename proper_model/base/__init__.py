"""The frozen base model: found, read within bounds, loaded, quantized, merged with stage 1."""

__all__ = [
    "checked", "config", "folder", "gguf_header", "loading", "model_types", "outline",
    "outside_config", "population_lora", "quantized", "reference", "sizes", "source", "streamed",
]
