"""What can be got out of a model or a prompt that holds a person's texts, by secrets of random content.

`planting`: secrets, and the items that they are put into. `new_tokens`: a base with tokens of their own.
`recall`: how likely a model finds a secret. `prompts`: what a server sees that is asked with own items.
`asking`: what is asked about people. `attacks`: one seed. `seeds`: several, summed up. `command`:
`proper-sim privacy canaries`.
"""
