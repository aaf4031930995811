"""What a release that is a trap makes of adapters: `traps` builds releases that make them store items, each at
two strengths, `verdicts` says what a device's checks see, `seeds` trains and sums up, `command`:
`proper-sim privacy backdoor`.
"""
