"""The import rules and size limits that keep the packages apart (ADR 0001).

Read off the syntax tree, so that late imports inside functions count too. Every rule is shown to
catch a planted violation before the tree is judged by it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
    },
    "coordinator": {"client", "simulations", "benchmarks"},
    "client": {"coordinator", "simulations", "benchmarks"},
    "simulations": {"benchmarks"},
    "benchmarks": set(),
}
FLOWER_FILES = {
    "coordinator/server_app.py",
    "coordinator/federation.py",
    "client/node/flower_app.py",
    "simulations/flower/flower_engine.py",
}
# Chat templates are jinja's; pages and reports are not the engine's.
CHAT_FILE = "proper_model/text/chat_turn.py"
# Only these build messages: the client's one place through which anything leaves a device.
MESSAGE_FILES = {"client": {"client/node/flower_app.py"}}
# Usable with torch and safetensors alone, for example inside another program.
ENGINE_MODULES = ("errors", "config", "lora", "experts", "routers", "losses", "model", "training")
ENGINE_FORBIDDEN = {"pydantic", "flwr"}
# Formats that run code when they are read, or are not checked before they are parsed.
UNSAFE_CALLS = {("pickle", "load"), ("pickle", "loads"), ("yaml", "load"), ("os", "system")}


def imported_roots(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
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
    """What the file `name` (a path such as `client/node/simulated_state.py`) imports and must not."""
    package, _, module = name.partition("/")
    forbidden = set(FORBIDDEN_IMPORTS[package])
    if name not in FLOWER_FILES:
        forbidden |= {"flwr"}
    if name == CHAT_FILE:
        forbidden -= {"jinja2"}
    if package == "proper_model" and module.removesuffix(".py") in ENGINE_MODULES:
        forbidden |= ENGINE_FORBIDDEN
    return [
        f"{name}:{line} imports {root}"
        for root, line in imported_roots(ast.parse(source))
        if root in forbidden
    ]


def engine_closure(folder: Path) -> set[str]:
    """Modules of proper_model that the engine reaches through its own imports."""
    waiting, reached = list(ENGINE_MODULES), set()
    while waiting:
        module = waiting.pop()
        path = folder / f"{module}.py"
        if module in reached or not path.is_file():
            continue
        reached.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "proper_model":
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("proper_"):
                waiting.append(str(node.module).split(".")[1])
    return reached


def message_violations(name: str, source: str) -> list[str]:
    """Constructions of flwr's Message in a client file that is not the one place for them."""
    allowed = MESSAGE_FILES.get(name.partition("/")[0])
    if allowed is None or name in allowed:
        return []
    return [
        f"{name}:{node.lineno} builds a Message"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "Message")
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "Message")
        )
    ]


def unsafe_violations(name: str, source: str) -> list[str]:
    """Calls that read untrusted bytes as code; `torch.load` and `trust_remote_code` included."""
    found = []
    for node in ast.walk(ast.parse(source)):
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
    for node in ast.walk(ast.parse(source)):
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
    return [] if ast.get_docstring(ast.parse(source)) else [f"{name}: no module docstring"]


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


def test_the_engine_reaches_no_pydantic_and_no_flower(repository: Path, tmp_path: Path) -> None:
    def found(folder: Path) -> list[str]:
        return [
            f"{module}:{line} imports {root}"
            for module in sorted(engine_closure(folder))
            for root, line in imported_roots(ast.parse((folder / f"{module}.py").read_text()))
            if root in ENGINE_FORBIDDEN
        ]

    assert {"lora", "routers", "sites"} <= engine_closure(repository / "proper_model")
    assert found(repository / "proper_model") == []
    (tmp_path / "model.py").write_text("from proper_model.helper import x")
    (tmp_path / "helper.py").write_text("from pydantic import BaseModel")
    assert found(tmp_path) == ["helper:1 imports pydantic"]


def test_every_package_is_looked_at(repository: Path) -> None:
    for package in PACKAGES:
        assert (repository / package / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("proper_model/x.py", "import client"),
        ("proper_model/x.py", "from urllib.request import urlopen"),
        ("proper_model/x.py", "def f():\n    import rich.table"),
        ("proper_model/model/user_lora.py", "from pydantic import BaseModel"),
        ("proper_model/x.py", "import importlib\nimportlib.import_module('flwr.app')"),
        ("coordinator/x.py", "from client.node.cohort_adaptation import adapt"),
        ("client/x.py", "import coordinator.publish"),
        ("client/node/cohort_adaptation.py", "from flwr.app import Message"),
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
    assert len(message_violations("client/node/simulated_state.py", source)) == 2
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
