"""Numbers of an attack, pure functions on arrays: `measures` are AUC and the like with intervals over
owners, `shares` successes person by person; `scores` tell members by one model's token probabilities,
`reference_attacks` by reference models; `linking` names groups and finds people again, `inverting` reads
a gradient; `exposure` is of canaries, `one_run_audit` bounds epsilon from below.
"""
