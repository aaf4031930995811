"""What a release or a leaked part tells about the people behind it.

`measures`: how well an attack tells members from others, with intervals over owners.
`scores`: membership from the log-probabilities of one model.
"""

__all__ = [
    "measures", "scores",
]
