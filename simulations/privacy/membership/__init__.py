"""Who trained: `population` draws members, `targets` trains what is attacked, `attacks` scores one seed,
`seeds` sums several up, `command` is `proper-sim privacy membership`.
"""
