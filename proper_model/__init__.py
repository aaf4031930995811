"""The model, its training and its file formats. Knows no network and no command line."""
