"""What pooled users who mean harm can make a release say: `planting` a trigger in their items, `defences`
against it, `targets` that are trained on them, `attacks` of one seed, `seeds` summed up, `command`:
`proper-sim privacy poisoning`.
"""
