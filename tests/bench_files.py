"""Small benchmark files by hand."""

from __future__ import annotations

from typing import Any

HARDWARE = {
    "system": "Sys 1",
    "cpu": "Abacus <mark 2>",
    "cores": 3,
    "ram_bytes": 3 * 2**29,
    "gpu": None,
    "python": "3.11",
    "torch": "2.9",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIB = 2**20


def facts(kind: str) -> dict[str, Any]:
    return {
        "schema": 2,
        "benchmark": kind,
        "hardware": HARDWARE,
        "versions": {"torch": "2.9", "peft": "0.19"},
        "seed": 17,
    }


def contender(kind: str, cpu_s: list[float] | None, **changed: Any) -> dict[str, Any]:
    """One that trains 64 samples of 10 tokens in these CPU seconds and twice the wall time; None
    for one that failed.
    """
    peak = changed.pop("memory_peak_bytes", None)
    said = ",".join(f"{name}={value}" for name, value in changed.items()).replace("True", "true")
    measured = None
    if cpu_s is not None:
        measured = {
            "users": 4 if kind in ("stacked-loop", "peft-loop") else 32,
            "samples": 64,
            "tokens": 640,
            "padded_tokens": 800,
            "logit_positions": 5,
            "passes": 5,
            "rounds": [
                {"wall_s": 2 * s, "cpu_s": s, "setup_wall_s": 0.0, "setup_cpu_s": 0.0}
                for s in cpu_s
            ],
            "memory_before_bytes": None,
            "memory_peak_bytes": peak,
        }
    return {
        "label": kind + (f":{said}" if said else ""),
        "kind": kind,
        "what": f"what {kind} is",
        "batch": 1,
        "threads": 1,
        "dtype": "float32",
        "logits": "all",
        "attention": None,
        "tokens_per_step": 8192,
        "backend": "fused",
        "compile": False,
        "status": "failed" if cpu_s is None else "measured",
        "cause": "RuntimeError: no memory" if cpu_s is None else None,
        "measured": measured,
        **changed,
    }


def contenders() -> list[dict[str, Any]]:
    """Rounds such that a ratio of medians is not the median of ratios."""
    return [
        contender("stacked-loop", [8.0, 8.0, 2.0], compile=True, memory_peak_bytes=50 * MIB),
        contender("stacked-loop", [4.0, 4.0, 1.0], batch=4, compile=True),
        contender("limit", [0.5, 1.0, 0.25]),
        contender("ours-moe", [1.0, 4.0, 2.0], memory_peak_bytes=100 * MIB),
        contender("ours-moe", [0.125, 0.125, 0.125], batch=4),
        contender("ours-moe", [0.5, 0.5, 0.5], dtype="bfloat16"),
        contender("vmap-moe", None),
    ]


def setting(**changed: Any) -> dict[str, Any]:
    return {
        "size": "small",
        "users": 32,
        "samples": 2,
        "tokens": 96,
        "lengths": "fixed",
        "seed": 0,
        "contenders": contenders(),
        **changed,
    }


def engine_file(*settings: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        **facts("engine"),
        "commit": COMMIT,
        "device": "cpu",
        "rounds": 3,
        "warmup": 1,
        "dropout": 0.0,
        "interleaved": True,
        "load_before": 0.25,
        "agreement": [],
        "settings": list(settings) or [setting()],
        **changed,
    }


def memory_peak(predicted: int, measured: int, **changed: Any) -> dict[str, Any]:
    return {
        "size": "small",
        "users": 8,
        "tokens_per_step": 1024,
        "recompute": False,
        "dtype": "float32",
        "slot_bytes": 1,
        "token_bytes": 1,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "base_bytes": 500 * MIB,
        **changed,
    }


def memory_file(*peaks: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Off by +10 %, -20 % and one whose training took nothing more than was there."""
    known = [
        memory_peak(110 * MIB, 100 * MIB),
        memory_peak(160 * MIB, 200 * MIB, users=64, recompute=True),
        memory_peak(10 * MIB, 0, users=2),
    ]
    found = {"commit": COMMIT, "sample_tokens": 96, "peaks": list(peaks) or known}
    return facts("memory") | found | changed


def device_file() -> dict[str, Any]:
    one = {"shape": "1B", "parameters": 10, "weights": "4bit", "dtype": "float32"}
    one |= {"base_bytes": 2**30, "loading_bytes": 3 * 2**29}
    return {
        **facts("device"),
        "commit": COMMIT,
        "data": "news",
        "items": 100,
        "preset": "device",
        "profile": "tiny",
        "threads": 1,
        "adaptations": [
            {
                "base_weights": "full",
                "recompute": False,
                "max_memory_bytes": None,
                "seconds": [61.0, 59.4, 90.0],
                "peak_bytes": [3 * MIB, MIB, 2 * MIB],
            }
        ],
        "sample_tokens": 256,
        "foretold": [
            {**one, "recompute": False, "training_bytes": 2**29},
            {**one, "recompute": True, "training_bytes": 2**28},
        ],
        "persons": [
            {
                "base": "tiny",
                "data": "news",
                "items": 100,
                "tokens": 7000,
                "parts": {"start": {"cpu_s": 3.0, "wall_s": 4.0}},
                "peak_bytes": MIB,
                "generate_s": 2.5,
                "serve_s": 0.125,
            }
        ],
    }


def whole_run(wall: float, **phases: float) -> dict[str, Any]:
    return {
        "wall_s": wall,
        "cpu_s": wall / 2,
        "phases_s": phases,
        "node_phases_s": {},
        "untimed_s": wall - sum(phases.values()),
        "load_before": 0.0,
    }


def pipeline_file() -> dict[str, Any]:
    """A phase that only a later round has is still a phase; the others spent nothing on it."""
    old = [whole_run(9.0, flower=4.0), whole_run(30.0, flower=20.0), whole_run(12.0, flower=5.0)]
    new = [
        whole_run(7.0, start=2.0),
        whole_run(7.0, start=2.0, more=1.0),
        whole_run(7.0, start=2.0, more=0.5),
    ]
    return {
        **facts("pipeline"),
        "usable_cores": 1,
        "data": "films",
        "task": "films",
        "arguments": ["--users", "8"],
        "checkouts": [
            {"label": "old", "commit": "1" * 40, "rounds": old, "means": {}, "apart": 0.0},
            {"label": "new", "commit": "2" * 40, "rounds": new, "means": {}, "apart": 0.25},
        ],
    }
