"""Who trained: `population` draws members, `targets` trains what is attacked, `shadows` what it is compared
with. `attacked` is one seed as an attacker finds it, `attacks` hands its things to the files that attack them
(`found` is what they return), `seeds` sums seeds up, `command` is `proper-sim privacy membership`.
"""
