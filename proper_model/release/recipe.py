"""recipe.json and task.toml of a release, read strictly or not at all.

Everything in it is used later, most of it for sizes and numbers of passes, so everything has a
bound. Source: docs/bundle-format.md section 6.5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from proper_model.bundle.file_names import RECIPE, TASK
from proper_model.bundle.manifest import BaseReference
from proper_model.errors import BundleFormatError, ConfigError, TaskError
from proper_model.settings.calibration import Calibration
from proper_model.settings.presets import Structure
from proper_model.settings.profile import NAME, StageSettings
from proper_model.settings.settings_io import from_mapping, to_mapping
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.tasks.task import Task, task_from_toml

RECIPE_FORMAT = 1
MAX_RECIPE_BYTES = 1 << 20
MAX_DEPTH = 16
LARGEST_SEED = 2**63 - 1
MAX_TEMPLATE = 200
T = TypeVar("T")
_FIELDS = {"format", "structure", "settings", "template", "seed", "base", "notes"}
_CALIBRATION = "calibration"  # only in a release that was calibrated
_HINT = "the release was made by another program or version; ask the publisher for a new one"


@dataclass(frozen=True)
class BaseSource:
    """A base that is not shipped: its public name, no path, and the revision it was trained on."""

    name: str
    revision: str


@dataclass(frozen=True)
class Recipe:
    """What recipe.json says.

    Attributes:
        template: the task's template set.
        base: the base that the release refers to; None where it is embedded.
        notes: numbers about training, for reports; no user data.
        calibration: how much a history may change; None: every device chooses for itself.
    """

    structure: Structure
    settings: StageSettings
    template: str
    seed: int
    base: BaseSource | None
    notes: Mapping[str, Any]
    calibration: Calibration | None = None

    def to_bytes(self) -> bytes:
        """The file; the inverse of `parse_recipe`."""
        base = None if self.base is None else vars(self.base)
        settings = to_mapping(self.settings)
        for table in ("privacy", "robust"):
            if settings[table] is None:
                del settings[table]  # programs of before it was there read this recipe, too
        recipe = {
            "format": RECIPE_FORMAT,
            "structure": to_mapping(self.structure),
            "settings": settings,
            "template": self.template,
            "seed": self.seed,
            "base": base,
            "notes": dict(self.notes),
        }
        if self.calibration is not None:
            recipe[_CALIBRATION] = to_mapping(self.calibration)
        return json.dumps(recipe, sort_keys=True, indent=1).encode()

    def check_base(self, reference: BaseReference | None) -> None:
        """Raise BundleFormatError unless this is the base that the signed manifest names."""
        signed = None if reference is None else BaseSource(reference.hub_id, reference.revision)
        if self.base != signed:
            raise BundleFormatError(
                f"{RECIPE}: names another base than the manifest, whose files are checked",
                hint=_HINT,
            )


def parse_recipe(data: bytes) -> Recipe:
    """The recipe of a release's bytes.

    Raises BundleFormatError naming the field, if one is missing, unknown, of another type or out
    of bounds.
    """
    if len(data) > MAX_RECIPE_BYTES:
        raise _refused(f"{len(data)} bytes, expected at most {MAX_RECIPE_BYTES}")
    try:
        fields = parse_object(data, max_depth=MAX_DEPTH)
    except DocumentError as error:
        raise _refused(str(error)) from None
    if type(fields.get("format")) is int and fields["format"] != RECIPE_FORMAT:
        raise BundleFormatError(
            f"{RECIPE} has format {fields['format']}, expected {RECIPE_FORMAT}",
            hint="update PROPER, or install a bundle made by this version",
        )
    if fields.keys() - {_CALIBRATION} != _FIELDS or type(fields["format"]) is not int:
        names = ", ".join(sorted(_FIELDS))
        raise _refused(
            f"expected exactly the fields {names}, and at most {_CALIBRATION} beside them"
        )
    template, seed, notes = fields["template"], fields["seed"], fields["notes"]
    if not isinstance(template, str) or not 0 < len(template) <= MAX_TEMPLATE:
        raise _refused(f"template must be a text of 1 to {MAX_TEMPLATE} characters")
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise _refused(f"seed must be an integer from 0 to {LARGEST_SEED}")
    if not isinstance(notes, dict):
        raise _refused("notes must be an object")
    structure = _settings(Structure, fields["structure"], "structure")
    if NAME.fullmatch(structure.name) is None:
        raise _refused("structure.name must be 1 to 64 letters, digits, '.', '_' or '-'")
    settings = _settings(StageSettings, fields["settings"], "settings")
    base = _base(fields["base"])
    calibration = None
    if _CALIBRATION in fields:
        calibration = _settings(Calibration, fields[_CALIBRATION], _CALIBRATION)
    return Recipe(structure, settings, template, seed, base, notes, calibration)


def parse_release_task(data: bytes, template: str) -> Task:
    """The task of a release's bytes under the recipe's template set. Raises BundleFormatError."""
    try:
        return task_from_toml(data.decode("utf-8"), template=template, where=TASK)
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{TASK}: not UTF-8 at byte {error.start}") from None
    except TaskError as error:
        raise BundleFormatError(error.message, hint=error.hint or _HINT) from None


def read_recipe_and_task(
    read: Callable[[str], bytes], reference: BaseReference | None
) -> tuple[Recipe, Task]:
    """What the two files say, by `read`; the recipe's base is the manifest's. Raises BundleFormatError."""
    recipe = parse_recipe(read(RECIPE))
    recipe.check_base(reference)
    return recipe, parse_release_task(read(TASK), recipe.template)


def _settings(kind: type[T], value: Any, name: str) -> T:
    if not isinstance(value, dict):
        raise _refused(f"{name} must be an object")
    try:
        return from_mapping(kind, value, where=f"{RECIPE}: {name}")
    except ConfigError as error:
        raise BundleFormatError(error.message, hint=error.hint or _HINT) from None


def _base(value: Any) -> BaseSource | None:
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or value.keys() != {"name", "revision"}
        or not all(
            isinstance(text, str) and 0 < len(text) <= MAX_TEMPLATE for text in value.values()
        )
    ):
        raise _refused("base must be null, or a name and a revision")
    return BaseSource(value["name"], value["revision"])


def _refused(what: str) -> BundleFormatError:
    return BundleFormatError(f"{RECIPE}: {what}", hint=_HINT)


@dataclass(frozen=True)
class ReleaseContent:
    """What the small files of a release say, checked against each other.

    Attributes:
        config: keys of the base's configuration that count; None where the base is referenced and
            its configuration did not come along.
        tokenizer: loaded; None where `config` is.
    """

    recipe: Recipe
    task: Task
    config: Mapping[str, Any] | None
    tokenizer: Any
