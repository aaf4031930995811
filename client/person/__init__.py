"""One personalization: the way in which anybody's history becomes a model of their own.

`workspace` opens a person's folder, `load_for_training` the release; `learner` encodes and splits the items;
`adapting` fits the embedding and trains the adapters, `updating` goes on with new items: one person
or many at once; `item_promise` is what was promised for single items; `state` is the document that
comes of it, `stores` keeps it, in the vault or in a plain folder; `arms` answers under it, `answering`
for one person, `evaluation` says what it brought.
"""

__all__ = [
    "adapting", "answering", "arms", "cost", "evaluation", "item_promise", "learner",
    "load_for_training", "replacing", "state", "state_check", "stores", "updating", "workspace",
]
