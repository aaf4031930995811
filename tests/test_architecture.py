"""The import rules and size limits that keep the packages apart (ADR 0001).

Read off the syntax tree, so that late imports inside functions count too. Every rule is shown to
catch a planted violation before the tree is judged by it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGES = ("proper_model", "coordinator", "client", "simulations", "benchmarks")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

FORBIDDEN_IMPORTS = {
    "proper_model": {
        # first-party roles, then everything that talks to a person or a network
        *("coordinator", "client", "simulations", "benchmarks"),
        *("flwr", "ray", "typer", "click", "rich", "argparse", "jinja2", "matplotlib"),
        *("socket", "ssl", "http", "urllib", "requests", "httpx", "subprocess", "webbrowser"),
        "huggingface_hub",
    },
    "coordinator": {"client", "simulations", "benchmarks"},
    "client": {"coordinator", "simulations", "benchmarks"},
    "simulations": {"benchmarks"},
    "benchmarks": set(),
}
# Rooms in the order in which they may import: each only those before it. A room's `__init__` is its
# face; files beside the rooms stand where they are named.
ROOMS = {
    "proper_model": (
        *("errors", "progress"),
        *(
            "accounting",
            "json_output",
            "storage",
            "settings",
            "kernels",
            "tasks",
            "bundle",
            "base",
            "text",
        ),
        *("federation", "data", "model", "evaluation", "engine", "stages", "answering"),
        *("release", "export", "checks"),
    ),
    "coordinator": ("files", "commands", "cli"),
    "client": (
        *("home", "settings", "terminal", "look", "vault", "history", "releases", "bases"),
        *("person", "export"),
        *("node", "serving", "commands", "cli"),
    ),
    "simulations": (
        *("synthetic", "setup", "outcome", "flower", "reporting", "baselines", "experiments"),
        *("privacy", "pipeline", "cli", "api"),
    ),
}
MAX_FACE_LINES = 20
# Measuring the engine takes its parts, as tests do.
BEHIND_FACES = {"benchmarks"}
FLOWER_FILES = {
    "coordinator/server_app.py",
    "coordinator/federation.py",
    "client/node/flower_app.py",
    "simulations/flower/flower_engine.py",
}
# Chat templates are jinja's; pages and reports are not the engine's.
CHAT_FILE = "proper_model/text/chat_turn.py"
# Where a base that is given by its hub id is looked up, or fetched for whoever trains.
HUB_FILES = {
    "proper_model/base/folder.py",
    "proper_model/checks/base.py",
    "proper_model/checks/outside_base.py",
}
# Where dp-accounting, which has an environment of its own, is asked what a mechanism comes to.
ACCOUNTANT_FILE = "proper_model/accounting/accountant.py"
# Only these build messages: the client's one place through which anything leaves a device.
MESSAGE_FILES = {"client": {"client/node/flower_app.py"}}
# Usable with torch and safetensors alone, for example inside another program.
ENGINE_ROOMS = ("errors", "settings", "kernels", "model", "engine", "stages")
ENGINE_FORBIDDEN = {"pydantic", "flwr"}
# Formats that run code when they are read, or are not checked before they are parsed.
UNSAFE_CALLS = {("pickle", "load"), ("pickle", "loads"), ("yaml", "load"), ("os", "system")}


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a file, once for all rules."""
    return tuple(ast.walk(parse(source)))


def imported_roots(source: str) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of every import, wherever in the file it stands."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value).split(".")[0], node.lineno


def import_violations(name: str, source: str) -> list[str]:
    """What the file `name` (a path such as `client/person/stores.py`) imports and must not."""
    package, _, module = name.partition("/")
    forbidden = set(FORBIDDEN_IMPORTS[package])
    if name not in FLOWER_FILES:
        forbidden |= {"flwr"}
    if name == CHAT_FILE:
        forbidden -= {"jinja2"}
    if name in HUB_FILES:
        forbidden -= {"huggingface_hub"}
    if name == ACCOUNTANT_FILE:
        forbidden -= {"subprocess"}
    if package == "proper_model" and module.partition("/")[0] in ENGINE_ROOMS:
        forbidden |= ENGINE_FORBIDDEN
    return [
        f"{name}:{line} imports {root}"
        for root, line in imported_roots(source)
        if root in forbidden
    ]


def imported_modules(source: str, modules: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    """(module, name or "", line) of every import of our own modules, late ones and types included.

    `from package.room import module` counts as an import of the module.
    """
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from ((a.name, "", node.lineno) for a in node.names if a.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in modules:
                    yield whole, "", node.lineno
                elif node.module in modules:
                    yield node.module, alias.name, node.lineno


def modules_of(root: Path) -> dict[str, str]:
    """Source by dotted name; a package's is that of its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            found[name.removesuffix(".__init__")] = path.read_text()
    return found


def place(module: str) -> tuple[str, int | None, str]:
    """Package, place of its room in the order, and the room; None for a file beside the rooms."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    order = ROOMS.get(package, ())
    if room in order:
        return package, order.index(room), room
    if "files" in order and "." not in rest:
        return package, order.index("files"), "files"
    return package, None, room


def order_violations(modules: dict[str, str]) -> list[str]:
    """Imports from a room into a later one of the same package, and files that no room holds."""
    found = []
    for module, source in modules.items():
        package, mine, room = place(module)
        if package not in ROOMS or module.endswith("__main__") or module == package:
            continue
        if mine is None:
            found.append(f"{module} is in no room")
            continue
        for target, _, line in imported_modules(source, modules):
            other, theirs, its_room = place(target)
            if other == package and theirs is not None and theirs > mine:
                found.append(f"{module}:{line} is in {room} and imports {its_room}, a later room")
    return found


def import_circles(modules: dict[str, str]) -> list[list[str]]:
    """Modules that reach themselves through imports; faces import their own room and do not count."""
    inside = {
        module: {target for target, _, _ in imported_modules(source, modules)} - {module}
        for module, source in modules.items()
    }
    waiting = True
    while waiting:  # what imports nothing that is left is in no circle, nor what nobody imports
        used = set().union(*inside.values()) if inside else set()
        waiting = {m for m, targets in inside.items() if not targets or m not in used}
        inside = {m: targets - waiting for m, targets in inside.items() if m not in waiting}
    return [sorted(inside)] if inside else []


def names_of_face(source: str) -> set[str]:
    """What a room's `__init__` lists in `__all__`."""
    for node in parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.AnnAssign):
            target = node.target
        if isinstance(target, ast.Name) and target.id == "__all__":
            return set(ast.literal_eval(node.value))  # type: ignore[union-attr,arg-type]
    return set()


def face_violations(modules: dict[str, str]) -> list[str]:
    """Imports past a face: of a module or name that another package's room does not list.

    In `proper_model`, rooms import each other's modules; everywhere else a face holds for the
    other rooms of its own package too.
    """
    found = []
    folders = {".".join(module.split(".")[:2]) for module in modules if module.count(".") > 1}
    for module, source in modules.items():
        package, _, room = place(module)
        if package in BEHIND_FACES:
            continue
        for target, name, line in imported_modules(source, modules):
            other, theirs, its_room = place(target)
            if theirs is None or f"{other}.{its_room}" not in folders:
                continue
            if (other, its_room) == (package, room) or other == package == "proper_model":
                continue
            listed = names_of_face(modules[f"{other}.{its_room}"])
            inside = target.split(".")[2:]
            if (inside[0] if inside else name) not in listed and inside + [name] != [""]:
                found.append(f"{module}:{line} reaches past the face of {other}.{its_room}")
    return found


def face_faults(module: str, modules: dict[str, str]) -> list[str]:
    """What is wrong with one room's face: its length, no `__all__`, or a name that is nowhere."""
    source = modules[module]
    found = []
    if source.count("\n") > MAX_FACE_LINES:
        found.append(f"{module}: a face of {source.count(chr(10))} lines, at most {MAX_FACE_LINES}")
    tree = parse(source)
    if "__all__" not in source:
        found.append(f"{module}: no __all__")
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return found + [
        f"{module} lists {name}, which it neither imports nor holds"
        for name in sorted(names_of_face(source))
        if name not in imported and f"{module}.{name}" not in modules
    ]


def engine_closure(modules: dict[str, str]) -> set[str]:
    """Modules of proper_model that the engine's rooms reach through their own imports."""
    waiting = [
        m for m in modules if m.startswith("proper_model.") and m.split(".")[1] in ENGINE_ROOMS
    ]
    # Reading settings from files is the edge of its room.
    waiting = [m for m in waiting if m.rpartition(".")[2] not in ("shipped_profiles", "settings")]
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        waiting += [target for target, _, _ in imported_modules(modules[module], modules)]
    return reached


def message_violations(name: str, source: str) -> list[str]:
    """Constructions of flwr's Message in a client file that is not the one place for them."""
    allowed = MESSAGE_FILES.get(name.partition("/")[0])
    if allowed is None or name in allowed:
        return []
    return [
        f"{name}:{node.lineno} builds a Message"
        for node in nodes(source)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "Message")
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "Message")
        )
    ]


def unsafe_violations(name: str, source: str) -> list[str]:
    """Calls that read untrusted bytes as code; `torch.load` and `trust_remote_code` included."""
    found = []
    for node in nodes(source):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            call = (function.value.id, function.attr)
            if call in UNSAFE_CALLS or call == ("torch", "load"):
                found.append(f"{name}:{node.lineno} calls {'.'.join(call)}")
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg in ("trust_remote_code", "shell") and not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                found.append(f"{name}:{node.lineno} passes {keyword.arg}")
    return found


def size_violations(name: str, source: str) -> list[str]:
    """Files and functions too long to be read in one go."""
    found = []
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        found.append(f"{name}: {lines} lines, at most {MAX_FILE_LINES}")
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(
                    f"{name}:{node.lineno} {node.name} has {length} lines, "
                    f"at most {MAX_FUNCTION_LINES}"
                )
    return found


def docstring_violations(name: str, source: str) -> list[str]:
    """Modules that do not say what they are for."""
    return [] if ast.get_docstring(parse(source)) else [f"{name}: no module docstring"]


RULES = (
    import_violations,
    message_violations,
    unsafe_violations,
    size_violations,
    docstring_violations,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_obeys(rule, repository: Path) -> None:
    found = []
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*.py")):
            name = path.relative_to(repository).as_posix()
            found += rule(name, path.read_text())
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def modules(repository: Path) -> dict[str, str]:
    return modules_of(repository)


def test_rooms_import_only_rooms_before_them(modules) -> None:
    assert order_violations(modules) == []


def test_no_import_goes_in_a_circle(modules) -> None:
    assert import_circles(modules) == []


def test_nobody_reaches_past_a_face(modules) -> None:
    assert face_violations(modules) == []


def test_every_room_has_a_face(modules, repository: Path) -> None:
    rooms = [
        m for m in modules if m.count(".") == 1 and (repository / m.replace(".", "/")).is_dir()
    ]
    assert len(rooms) > 25
    assert [fault for room in rooms for fault in face_faults(room, modules)] == []
    for package, order in ROOMS.items():
        missing = {room for room in order if f"{package}.{room}" not in modules} - {"files"}
        assert not missing, package


PLANTED = {
    "proper_model.kernels": '__all__ = ["rows"]',
    "proper_model.kernels.rows": "",
    "proper_model.kernels.layout": "from proper_model.model.passes import Pass",
    "proper_model.model": 'from proper_model.model.passes import Pass\n__all__ = ["Pass"]',
    "proper_model.model.passes": "from proper_model.kernels.rows import dot",
    "client.vault": '__all__ = ["opening", "lost"]',
    "client.vault.opening": "from proper_model.model import Pass\nfrom proper_model.kernels import rows",
    "client.vault.sealing": "from proper_model.kernels.rows import dot",
    "client.person": "",
    "client.person.state": "def f():\n    from client.vault.sealing import seal",
    "client.person.answering": "from proper_model.model import Other\nimport proper_model.kernels.layout",
}


def test_planted_climbs_circles_and_trespasses_are_caught() -> None:
    assert order_violations(PLANTED) == [
        "proper_model.kernels.layout:1 is in kernels and imports model, a later room"
    ]
    assert order_violations({"client.lost": ""}) == ["client.lost is in no room"]
    assert import_circles(PLANTED) == []
    circle = PLANTED | {
        "proper_model.kernels.rows": "def f():\n    from proper_model.kernels import layout"
    }
    assert import_circles(circle) == [
        ["proper_model.kernels.layout", "proper_model.kernels.rows", "proper_model.model.passes"]
    ]
    assert face_violations(PLANTED) == [
        "client.person.state:2 reaches past the face of client.vault",
        "client.person.answering:1 reaches past the face of proper_model.model",
        "client.person.answering:2 reaches past the face of proper_model.kernels",
    ]
    assert face_faults("client.vault", PLANTED) == [
        "client.vault lists lost, which it neither imports nor holds"
    ]
    assert face_faults("client.person", PLANTED) == ["client.person: no __all__"]
    long = {"client.vault": "__all__ = []" + "\n" * (MAX_FACE_LINES + 1)}
    assert len(face_faults("client.vault", long)) == 1


def test_the_engine_reaches_no_pydantic_and_no_flower(modules) -> None:
    def found(modules: dict[str, str]) -> list[str]:
        return [
            f"{module}:{line} imports {root}"
            for module in sorted(engine_closure(modules))
            for root, line in imported_roots(modules[module])
            if root in ENGINE_FORBIDDEN
        ]

    assert {"proper_model.model.user_lora", "proper_model.base.sites"} <= engine_closure(modules)
    assert found(modules) == []
    planted = {
        "proper_model.model.passes": "from proper_model.helper import x",
        "proper_model.helper": "from pydantic import BaseModel",
    }
    assert found(planted) == ["proper_model.helper:1 imports pydantic"]


def test_every_package_is_looked_at(repository: Path) -> None:
    for package in PACKAGES:
        assert (repository / package / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("proper_model/x.py", "import client"),
        ("proper_model/x.py", "from huggingface_hub import HfApi"),
        ("proper_model/x.py", "from urllib.request import urlopen"),
        ("proper_model/x.py", "def f():\n    import rich.table"),
        ("proper_model/model/user_lora.py", "from pydantic import BaseModel"),
        ("proper_model/x.py", "import importlib\nimportlib.import_module('flwr.app')"),
        ("coordinator/x.py", "from client.node.cohort_host import CohortHost"),
        ("client/x.py", "import coordinator.publish"),
        ("client/node/cohort_host.py", "from flwr.app import Message"),
        ("simulations/run.py", "import flwr"),
        ("simulations/run.py", "from benchmarks.worker import Worker"),
    ],
)
def test_planted_imports_are_caught(name: str, source: str) -> None:
    assert len(import_violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("proper_model/bundle/signed_bundle.py", "from pydantic import BaseModel"),
        ("client/node/flower_app.py", "from flwr.clientapp import ClientApp"),
        ("client/x.py", "from proper_model.model.user_lora import scale\nfrom . import other"),
        ("simulations/run.py", "import client, coordinator"),
        ("benchmarks/run.py", "import client, coordinator, simulations"),
    ],
)
def test_allowed_imports_pass(name: str, source: str) -> None:
    assert import_violations(name, source) == []


def test_planted_messages_are_caught() -> None:
    source = "reply = Message(content)\nother = app.Message(content)"
    assert len(message_violations("client/person/stores.py", source)) == 2
    assert message_violations("client/node/flower_app.py", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.loads(raw)",
        "torch.load(path)",
        "load(base, trust_remote_code=True)",
        "subprocess.run(line, shell=flag)",
    ],
)
def test_planted_unsafe_calls_are_caught(source: str) -> None:
    assert len(unsafe_violations("client/x.py", source)) == 1


def test_planted_lengths_are_caught() -> None:
    long_function = "def f():\n" + "    pass\n" * MAX_FUNCTION_LINES
    assert len(size_violations("client/x.py", long_function)) == 1
    assert len(size_violations("client/x.py", "\n" * (MAX_FILE_LINES + 1))) == 1
    assert size_violations("client/x.py", "def f():\n    pass\n") == []


def test_a_missing_docstring_is_caught() -> None:
    assert docstring_violations("client/x.py", "import os") == ["client/x.py: no module docstring"]
