"""A node of the federation: devices that simulated or real people hold."""
