"""Numbers of an attack, pure functions on arrays: `measures` are AUC and the like with intervals over
owners, `scores` tell members by one model's token probabilities, `reference_attacks` by reference
models; `exposure` is of canaries, `one_run_audit` bounds epsilon from below; `shares` are successes person
by person, `linking` names groups and finds people again from a vector each.
"""
