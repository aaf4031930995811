"""What a command line shows, and how it starts and ends."""
