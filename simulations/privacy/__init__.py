"""What a release or a leaked part tells about the people behind it.

`measures`: how well an attack tells members from others, with intervals over owners.
"""

__all__ = [
    "measures",
]
