"""What tells about people: what leaves a device, what a release says of those who trained it.

`egress`: canaries planted in people's data, and looked for in all that a client sends or writes.
`membership`: who trained a release, which items an adapter. `memorization`: secrets planted in people's
items, and asked for. `linkage`: groups, and people found again. `inversion`: what a gradient would give
away. `deletion`: people who withdraw, items that are forgotten. `statistics`: scores of attacks and their intervals. `results`: files, tables, pages, sentences.
`commands`: `proper-sim privacy`.
"""

__all__ = ["commands", "egress"]
