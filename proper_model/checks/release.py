"""Is this content a release that a device can use? Decided before it is signed, and installed.

A signature is about bytes, this is about what they mean: everything that loading, training and
answering will read is read here once, strictly, and compared with the rest: the recipe against the
manifest's base, tensors against recipe and configuration, token ids against the embedding table.
Each failure is a `BundleError` that names file and field. The publisher runs it before signing, the
device before installing and again before loading. Source: docs/bundle-format.md section 6.5 to 6.8.

Values are bounded in `safe_tensors` and `content_policy`, where a file's bytes are at hand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proper_model.base.outside_config import build_empty, parse_config
from proper_model.base.population_lora import population_config
from proper_model.base.sites import Site, find_sites
from proper_model.base.streamed import fits
from proper_model.bundle.content_policy import check_numbers
from proper_model.bundle.file_names import (
    BASE,
    CONFIG,
    POPULATION_CONFIG,
    POPULATION_WEIGHTS,
    RECIPE,
    SHARED,
    TASK,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
)
from proper_model.bundle.limits import DEFAULT_LIMITS, Limits
from proper_model.bundle.manifest import BaseReference, Manifest
from proper_model.bundle.safe_tensors import read_table
from proper_model.checks.traps import check_training
from proper_model.errors import BaseModelError, BundleFormatError
from proper_model.release.contents import expected_shared, expected_starts
from proper_model.release.recipe import Recipe, ReleaseContent, read_recipe_and_task
from proper_model.settings.profile import FFN_TARGETS
from proper_model.stages.inferred_embedding import DIRECTIONS
from proper_model.tasks.task import Task
from proper_model.text.tokenizer_files import load_tokenizer

Shapes = Mapping[str, tuple[int, ...]]
MAX_PROTOTYPES = 10_000
_EXPERTS = re.compile(r"experts\.(.+)\.A")
_STARTS = re.compile(r"starts\.(?:stage3|oppu-mlp)\.(.+)\.A")
_LAYER = re.compile(r"\.(\d+)\.")
_HINT = "ask the publisher for a release that is whole"


def check_content(
    shapes: Mapping[str, Shapes],
    read: Callable[[str], bytes],
    reference: BaseReference | None,
    *,
    config: bytes | None = None,
    private: Path | None = None,
    parsed: tuple[Recipe, Task] | None = None,
) -> ReleaseContent:
    """Check a release whose bytes were verified; what it says.

    Args:
        shapes: of the tensors of every file of the release by name; empty for files without.
        read: the bytes of a file of the release. It is called for small files only.
        reference: the base that the manifest names; None where it is embedded.
        config: config.json of a referenced base, verified; None where that is not at hand, so that
            what needs it is checked only as far as it agrees with itself.
        private: a folder of this device that holds the files that were verified.
        parsed: what `read_recipe_and_task` gave for these very bytes.

    Raises BundleError: one of its children, mostly BundleFormatError.
    """
    _check_names(shapes, reference)
    recipe, task = parsed or read_recipe_and_task(read, reference)
    if BASE + CONFIG in shapes:
        own_config = read(BASE + CONFIG)
        digest = hashlib.sha256(own_config).hexdigest()
        if reference is not None and digest != reference.files.get(CONFIG):
            raise BundleFormatError(f"{BASE}{CONFIG}: not the one of the base that is referred to")
        config = own_config if config is None else config
    if POPULATION_CONFIG in shapes:
        _check_population_config(read(POPULATION_CONFIG), recipe)
    if config is None:
        _check_shared(recipe, _sites_of(shapes[SHARED], recipe), shapes[SHARED])
        return ReleaseContent(recipe, task, None, None)
    fields = parse_config(config, where=BASE + CONFIG)
    own = {n: s for file in shapes if file.startswith(BASE) for n, s in shapes[file].items()}
    if reference is None:
        _check_layers(fields, own)
    model = build_empty(fields)
    if reference is None and not fits(model, own):
        raise BundleFormatError(
            f"{BASE}: its tensors are not those that {CONFIG} describes, each once", hint=_HINT
        )
    _check_shared(recipe, find_sites(model), shapes[SHARED])
    _check_rows(model.config, recipe)
    if reference is not None:
        _check_population(model, recipe, shapes[POPULATION_WEIGHTS])
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer = load_tokenizer(
        {n.removeprefix(TOKENIZER): read(n) for n in shapes if n.startswith(TOKENIZER)},
        rows=rows,
        private=None if private is None else private / TOKENIZER,
    )
    return ReleaseContent(recipe, task, fields, tokenizer)


def _check_names(shapes: Mapping[str, Shapes], reference: BaseReference | None) -> None:
    """What every release holds is there, and the population LoRA only where it is not merged."""
    needed = [RECIPE, TASK, SHARED, TOKENIZER + TOKENIZER_JSON, TOKENIZER + TOKENIZER_CONFIG]
    needed += [BASE + CONFIG] if reference is None else [POPULATION_WEIGHTS]
    for name in needed:
        if name not in shapes:
            raise BundleFormatError(f"bundle: holds no {name}, which every release has", hint=_HINT)
    if reference is None and POPULATION_WEIGHTS in shapes:
        raise BundleFormatError(f"{POPULATION_WEIGHTS}: the base is embedded, and merged already")


def check_installable(
    manifest: Manifest,
    read: Callable[[str], bytes],
    *,
    config: bytes | None = None,
    private: Path | None = None,
) -> ReleaseContent:
    """`check_content` and `check_training` of verified files that a manifest lists. Raises as those do."""
    reference = manifest.base_reference
    content = check_content(manifest.shapes, read, reference, config=config, private=private)
    check_training(content.recipe)
    return content


def check_files(
    files: Mapping[str, bytes],
    reference: BaseReference | None = None,
    *,
    config: bytes | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> ReleaseContent:
    """`check_content` of files in memory without a manifest; tensor tables and values included."""
    shapes: dict[str, Shapes] = {}
    for name, data in files.items():
        shapes[name] = {}
        if name.endswith(".safetensors"):
            table = read_table(data, limits, where=name)
            check_numbers(name, data, table)
            shapes[name] = {tensor: spec.shape for tensor, spec in table.items()}
    return check_content(shapes, files.__getitem__, reference, config=config)


def _check_population_config(data: bytes, recipe: Recipe) -> None:
    """The file for other programs says what the recipe says, and nothing that they would follow."""
    name = None if recipe.base is None else recipe.base.name
    if name is None or data != population_config(recipe.settings.population, name).encode():
        raise BundleFormatError(f"{POPULATION_CONFIG}: not what the recipe says", hint=_HINT)


def _check_layers(fields: Mapping[str, Any], own: Shapes) -> None:
    """As many blocks as there are tensors for, before anything of that number is built."""
    numbers = {int(found[1][:9]) for name in own if (found := _LAYER.search(name)) is not None}
    if fields.get("num_hidden_layers") != len(numbers):
        raise BundleFormatError(
            f"{BASE}{CONFIG}: num_hidden_layers differs from the {len(numbers)} blocks that there "
            "are tensors for",
            hint=_HINT,
        )


def _check_rows(config: Any, recipe: Recipe) -> None:
    """No row may change another's, which unusual layers or positions by the longest row would do."""
    from proper_model.checks.trial import check_rows

    settings = recipe.settings
    try:
        check_rows(config, settings.longest_tokens(retrieval=True))
    except BaseModelError as error:
        raise BundleFormatError(f"{BASE}{CONFIG}: {error.message}", hint=_HINT) from None


def _sites_of(shared: Shapes, recipe: Recipe) -> list[Site]:
    """The sites that the experts name, for a base that is not at hand.

    Without experts those that a common start of private LoRAs names; there may be none.
    """
    alone = recipe.structure.population_only
    named, dimensions = (_STARTS, 2) if alone else (_EXPERTS, 3)
    sites: dict[str, Site] = {}
    for name, shape in shared.items():
        found = named.fullmatch(name)
        if found is None:
            continue
        path, other = found[1], shared.get(f"{name.removesuffix('A')}B", ())
        layer = _LAYER.search(path)
        if len(shape) != dimensions or len(other) != dimensions or layer is None:
            raise BundleFormatError(f"{SHARED}: the factors of {path} are not whole", hint=_HINT)
        sites[path] = Site(path, int(layer[1][:9]), shape[-1], other[-2])
    if alone and not sites:
        return []
    names = sorted(path.rpartition(".")[2] for path in sites)
    layers = {site.layer for site in sites.values()}
    if not sites or names != sorted(FFN_TARGETS * len(layers)):
        raise BundleFormatError(
            f"{SHARED}: expected experts for {', '.join(FFN_TARGETS)} of every block", hint=_HINT
        )
    return list(sites.values())


def _check_shared(recipe: Recipe, sites: list[Site], found: Shapes) -> None:
    """Exactly the tensors that recipe and sites imply."""
    counted = found.get("inferred.items", (0,))
    directions = counted[0] if len(counted) == 1 else 0
    if recipe.structure.infers_user and not (0 < directions <= DIRECTIONS):
        raise BundleFormatError(
            f"{SHARED}: expected inferred.items of shape (D,) with D from 1 to {DIRECTIONS}",
            hint=_HINT,
        )
    expected = expected_shared(recipe.structure, sites, directions=directions)
    tables, width = expected["mean_embedding"]
    prototypes = found.get("prototypes", ())
    if len(prototypes) != 3 or prototypes[1:] != (tables, width) or prototypes[0] > MAX_PROTOTYPES:
        raise BundleFormatError(
            f"{SHARED}: expected prototypes of shape (K, {tables}, {width}) with K at most "
            f"{MAX_PROTOTYPES}",
            hint=_HINT,
        )
    for start in expected_starts(recipe.structure, sites):
        if start.keys() & found.keys():
            expected |= start
    apart = {"prototypes", "prototype_counts", "mean_embedding_count", "inferred.center_count"}
    _check_exactly(SHARED, expected, {n: s for n, s in found.items() if n not in apart})


def _check_population(model: Any, recipe: Recipe, found: Shapes) -> None:
    """A pair of factors for every linear that the recipe's targets name."""
    from torch.nn import Linear

    settings, expected = recipe.settings.population, {}
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in settings.targets and isinstance(module, Linear):
            name = f"base_model.model.{path}.lora_"
            expected[f"{name}A.weight"] = (settings.rank, module.in_features)
            expected[f"{name}B.weight"] = (module.out_features, settings.rank)
    _check_exactly(POPULATION_WEIGHTS, expected, found)


def _check_exactly(where: str, expected: Shapes, found: Shapes) -> None:
    for name, shape in expected.items():
        if tuple(found.get(name, (-1,))) != shape:
            there = tuple(found[name]) if name in found else "nothing"
            raise BundleFormatError(
                f"{where}: expected '{name}' of shape {shape}, found {there}",
                hint="the release was made for another base or preset",
            )
    if foreign := found.keys() - expected.keys():
        raise BundleFormatError(
            f"{where}: holds {len(foreign)} tensors that its recipe has no use for", hint=_HINT
        )
