"""The app folder that `flwr run` packs: our three packages and a pyproject, wherever they came from.

A checkout has a pyproject, an installed wheel has none, and Flower limits the name of the folder.
So the launcher always packs a folder of its own, from the packages that this process imports: what
runs on the nodes is what is installed here, byte for byte.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

PACKAGES = ("proper_model", "coordinator", "client")
SHIPPED = (".py", ".toml")

PYPROJECT = """\
[project]
name = "proper"
version = "{version}"
description = "Progressive personalization of language models"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "proper"
fab-include = [{include}]

[tool.flwr.app.components]
serverapp = "coordinator.server_app:app"
clientapp = "client.client_app:app"

[tool.flwr.app.config]
plan = ""
"""


def write_app(folder: Path) -> Path:
    """Fill `folder` afresh with the app and return it."""
    from importlib.metadata import PackageNotFoundError, version

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    patterns: set[str] = set()  # Flower refuses a pattern that matches nothing
    for name in PACKAGES:
        module = importlib.import_module(name)
        assert module.__file__ is not None
        source = Path(module.__file__).parent
        for path in source.rglob("*"):
            if path.suffix in SHIPPED and path.is_file() and "__pycache__" not in path.parts:
                target = folder / name / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                patterns.add(f"{name}/**/*{path.suffix}")
    try:
        number = version("proper")
    except PackageNotFoundError:
        number = "0.0.0"  # a checkout on the path, not installed
    include = ", ".join(json.dumps(pattern) for pattern in sorted(patterns))
    (folder / "pyproject.toml").write_text(
        PYPROJECT.format(version=number, include=include), encoding="utf-8"
    )
    return folder
