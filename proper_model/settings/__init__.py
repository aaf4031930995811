"""Which equations a model uses (presets) and how it is trained (profiles)."""
