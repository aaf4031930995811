"""What the engine takes from transformers, imported without what no program here ever runs.

`transformers.modeling_utils` brings whatever it finds installed: a compiler (torch._dynamo, with sympy), tensors
that are spread over machines (torch.distributed.tensor), and scipy for the losses of models that find objects in
pictures. That took longer than torch itself, of every command that loads a model. Nothing here compiles a
model or spreads one, so while transformers is imported

    scipy and distributed tensors are not there: transformers asks once, and keeps the answer
    the compiler is one that marks nothing; what is imported later gets the real one
    the table of what transformers holds, read from all its files, is made once and not twice

A program asks for this by the environment variable below, since it concerns the whole process, and before it has
threads, which could meet a stand-in: `proper` does. Its children, and whoever takes PROPER as a library, trains for
many or measures, have transformers as it is. Where transformers or torch have another shape than this expects,
all of it is imported as well.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any

import torch

FEWER_PARTS = "PROPER_FEWER_PARTS"
_NAME = "transformers"
_TABLE = "create_import_structure_from_path"
_COMPILER = "torch._dynamo"
_INDEXING = f"{_COMPILER}._trace_wrapped_higher_order_op"


def _import_parts() -> None:
    """The modules that this process will need, imported under all that the file's docstring says."""
    with ExitStack() as stack:
        facts = _facts()
        stack.enter_context(_without_scipy(facts))
        _answer_alone(facts)
        stack.enter_context(_compiler_of_nothing())
        for part in ("modeling_utils", "modeling_layers", "masking_utils"):
            importlib.import_module(f"{_NAME}.{part}")


def _facts() -> ModuleType:
    """Where transformers says what is installed, with room for its whole table of what it holds.

    That module is inside the package whose own file asks for the table, so it is imported first, through
    a package of that name which holds nothing.
    """
    inside = f"{_NAME}.utils.import_utils"
    if _NAME in sys.modules:
        return importlib.import_module(inside)
    spec = importlib.util.find_spec(_NAME)
    empty = ModuleType(_NAME)
    empty.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    vars(empty)["__version__"] = importlib.metadata.version(_NAME)
    sys.modules[_NAME] = empty
    try:
        facts = importlib.import_module(inside)
        table = vars(facts)[_TABLE]
        vars(facts)[_TABLE] = functools.cache(table.__wrapped__)
    finally:
        sys.modules.pop(_NAME, None)
    return facts


@contextmanager
def _without_scipy(facts: ModuleType) -> Iterator[None]:
    """transformers finds no scipy while this is open; whoever else imports it does."""
    ask = facts.is_scipy_available
    there = sys.modules.get("scipy")
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        ask.cache_clear()
        ask()
    finally:
        sys.modules.pop("scipy", None)
        if there is not None:
            sys.modules["scipy"] = there
    try:
        yield
    finally:
        ask.cache_clear()


def _answer_alone(facts: ModuleType) -> None:
    """Have transformers know, for good, that this process is no part of a group of machines."""
    ask, asked = facts.is_torch_distributed_available, torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        ask.cache_clear()
        ask()
    finally:
        torch.distributed.is_available = asked


@contextmanager
def _compiler_of_nothing() -> Iterator[None]:
    """In the compiler's place one that leaves functions as they are, unless the real one is there already."""
    if _COMPILER in sys.modules:
        yield
        return
    compiler, indexing = ModuleType(_COMPILER), ModuleType(_INDEXING)
    for name in ("disable", "allow_in_graph", "assume_constant_result"):
        setattr(compiler, name, _as_it_is)
    vars(indexing)["TransformGetItemToIndex"] = _real_indexing
    stands_in = {_COMPILER: compiler, _INDEXING: indexing}
    sys.modules.update(stands_in)
    vars(torch)["_dynamo"] = compiler
    try:
        yield
    finally:
        # Where something has imported the real one meanwhile, that stays.
        if vars(torch).get("_dynamo") is compiler:
            del vars(torch)["_dynamo"]
        for name, module in stands_in.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _as_it_is(function: Callable[..., Any] | None = None, *_: Any, **_named: Any) -> Any:
    return _as_it_is if function is None else function


def _real_indexing() -> Any:
    """What masks of transformers' own making take where they are made."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()


# Taken out: for this process, not for its children.
if os.environ.pop(FEWER_PARTS, "0") == "1" and f"{_NAME}.modeling_utils" not in sys.modules:
    with suppress(Exception):  # then the lines below import all of it, or say what is wrong
        _import_parts()

from transformers.activations import SiLUActivation  # noqa: E402
from transformers.modeling_layers import GradientCheckpointingLayer  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

__all__ = ["ALL_ATTENTION_FUNCTIONS", "GradientCheckpointingLayer", "SiLUActivation"]
