"""Which group somebody is of, and who is the same in two releases or tasks: `people` are drawn by seed,
`releases` trains, `views` makes vectors of what is held, `attacks` scores one seed, `planned` runs an
experiment over several, `command` is `proper-sim privacy linkage`.
"""
