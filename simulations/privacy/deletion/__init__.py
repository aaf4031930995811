"""Whether deleting works: `withdrawal` attacks the releases before and after people withdrew, `forgetting`
adapters before and after items were forgotten, both against exact retraining; `remains` looks through the
folders that `life`, a child process, leaves. `found` is what a seed keeps, `seeds` sums up, `sentences` says
it, `command` is `proper-sim privacy deletion`.
"""
