"""Numbers of an attack: `measures` are AUC and the like with intervals over owners, `scores` tell members
by one model's token probabilities, `reference_attacks` by several models', `shares` are successes person
by person, `linking` names groups and finds people again from a vector each.
"""
