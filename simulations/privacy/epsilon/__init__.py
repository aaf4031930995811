"""What user-level privacy of the pooled stages costs, and a lower bound of epsilon beside each: `people` are
drawn by seed, `trained` trains under one promise and measures, `crafted` audits the mechanism alone, `plan`
says what is trained, `seeds` runs it, `summary` sums it up, `sentences` says it, `command` is
`proper-sim privacy epsilon`.
"""
