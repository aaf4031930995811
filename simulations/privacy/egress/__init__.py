"""What leaves a device: `canaries` are planted, `scanner` finds them in every form, `scanned_runs` makes
what is scanned, in processes that `witness` listens to, one of them `client_life`; `measured` says what
leaked, `command` is `proper-sim privacy egress`.
"""
