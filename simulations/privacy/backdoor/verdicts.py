"""What a device's checks see of a release: as its files, and as what they are loaded to.

`files` are the checks of names, shapes, numbers and the recipe's bounds, which ask whether a release can be
used; `traps` those of `proper_model.checks.traps`, which ask whether it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proper_model.bundle.file_names import RECIPE
from proper_model.checks import check_files, check_training, check_weights
from proper_model.errors import BundleError
from proper_model.release.contents import Release, release_to_files
from proper_model.release.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class Verdict:
    """Of one release: why it is refused, or nothing where it is taken."""

    thing: str
    files: str
    traps: str

    @property
    def name(self) -> str:
        """As the rows of a file have one."""
        return f"{self.thing}/verdict"


def verdict_of(thing: str, release: Release) -> Verdict:
    """What checks say of the release with its base embedded, as a publisher would sign it."""
    files = release_to_files(release)
    return Verdict(
        thing,
        files=_refusal(lambda: check_files(files)),
        traps=trap_seen(release, parse_recipe(files[RECIPE])),
    )


def trap_seen(release: Release, recipe: Recipe) -> str:
    """Why the checks for traps refuse a release with its base embedded; nothing where they take it."""
    said = _refusal(lambda: check_training(recipe))
    return said or _refusal(lambda: check_weights(release, embedded=True))


def _refusal(check: Callable[[], object]) -> str:
    try:
        check()
    except BundleError as error:
        return error.message
    return ""
