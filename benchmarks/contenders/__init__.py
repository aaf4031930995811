"""The engine and its rivals, and what they train. Needs torch."""

from benchmarks.contenders.build import build_world, make_contender, shape_of
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.specs import Spec, parse_spec
from benchmarks.contenders.workload import Workload

__all__ = [
    "Ours",
    "Spec",
    "Workload",
    "build_world",
    "make_contender",
    "parse_spec",
    "shape_of",
]
