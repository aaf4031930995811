"""Many users in shared passes over the frozen base, and how much memory that takes."""
