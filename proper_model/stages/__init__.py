"""The stages of PROPER, one file each."""
