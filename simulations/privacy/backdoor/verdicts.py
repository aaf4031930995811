"""What a device's checks see of a release: as its files, and as what they are loaded to.

`files` are the checks of names, shapes, numbers and the recipe's bounds, which ask whether a release can be
used; `traps` those of `proper_model.checks.traps`, which ask whether it should be.
"""

from __future__ import annotations

from dataclasses import dataclass

from proper_model.bundle.file_names import RECIPE
from proper_model.checks import check_files, check_training, check_weights
from proper_model.errors import BundleError
from proper_model.release.contents import Release, release_to_files
from proper_model.release.recipe import parse_recipe


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
    said = ["", ""]
    try:
        check_files(files)
    except BundleError as error:
        said[0] = error.message
    try:
        check_training(parse_recipe(files[RECIPE]))
        check_weights(release, embedded=True)
    except BundleError as error:
        said[1] = error.message
    return Verdict(thing, *said)
