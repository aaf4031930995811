"""What leaves a device: `canaries` are planted in a `cast`, and `scanner` finds them in every form.

What is scanned are a `federation_run` and a `person_run`, each a `scanned_run` in processes that `witness`
listens to: one of them is `client_life`, which `person_commands` are for and a `visitor` asks.
`measured` says what leaked, `command` is `proper-sim privacy egress`.
"""
