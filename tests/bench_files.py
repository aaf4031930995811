"""Small benchmark files by hand.

Ratios are made up so that no quotient of the medians gives them: a table that divided by itself
would be caught.
"""

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


def spread(median: float) -> dict[str, float]:
    """Half and double of it around a median."""
    return {"median": median, "low": median / 2, "high": median * 2}


def contender(
    kind: str, rate: float | None, against: dict[str, float] | None = None, **changed: Any
) -> dict[str, Any]:
    """One that makes `rate` samples a second; None for one that failed."""
    said = ",".join(f"{name}={value}" for name, value in changed.items())
    measured = None
    if rate is not None:
        ratios = {
            label: {"cpu": spread(times), "wall": spread(times + 100)}
            for label, times in (against or {}).items()
        }
        measured = {
            "users": 4 if kind in ("naive-moe", "peft-loop") else 32,
            **dict.fromkeys(("samples", "tokens", "padded_tokens"), 32),
            **dict.fromkeys(("logit_positions", "passes", "flops"), 5),
            "rounds": [{"wall_s": 1.0, "cpu_s": 1.0, "setup_wall_s": 0.0, "setup_cpu_s": 0.0}],
            "samples_a_second": spread(rate),
            "samples_a_cpu_second": spread(rate),
            "tokens_a_second": spread(rate),
            "tokens_a_cpu_second": spread(rate),
            "setup_s_a_user": spread(0.0),
            "fill": 1.0,
            "share_of_peak": None,
            "users_an_hour": 1.0,
            "memory_before_bytes": None,
            "memory_peak_bytes": None,
            "against": ratios,
        }
    return {
        "label": kind + (f":{said}" if said else ""),
        "kind": kind,
        "what": kind,
        "batch": 1,
        "threads": 1,
        "dtype": "float32",
        "logits": "all",
        "attention": None,
        "tokens_per_step": 8192,
        "backend": "fused",
        "status": "failed" if rate is None else "measured",
        "cause": "RuntimeError: no memory" if rate is None else None,
        "measured": measured,
        **changed,
    }


# Named so that the naive loop at batch 1 is not the quickest, nor is its bfloat16 one a rival of
# float32.
NAIVE_4, PEFT_8 = "naive-moe:batch=4", "peft-loop:batch=8"
NAIVE_BF16, LIMIT_BF16 = "naive-moe:dtype=bfloat16", "limit:dtype=bfloat16"
NAIVE_ANSWER = "naive-moe:logits=answer"
AGAINST = {
    "naive-moe": 3.25,
    NAIVE_ANSWER: 2.75,
    NAIVE_4: 2.5,
    "peft-loop": 1.75,
    PEFT_8: 1.125,
    "limit": 0.8125,
    "vmap": 1.4375,
}
AGAINST_BF16 = {
    **AGAINST,
    "naive-moe": 6.5,
    NAIVE_ANSWER: 5.25,
    NAIVE_4: 4.75,
    PEFT_8: 2.25,
    NAIVE_BF16: 3.875,
}


def contenders() -> list[dict[str, Any]]:
    return [
        contender("naive-moe", 10.0),
        contender("naive-moe", 12.0, logits="answer"),
        contender("naive-moe", 20.0, batch=4),
        contender("naive-moe", 90.0, dtype="bfloat16"),
        contender("peft-loop", 15.0),
        contender("peft-loop", 30.0, batch=8),
        contender("limit", 200.0),
        contender("limit", 300.0, dtype="bfloat16"),
        contender("ours-moe", 99.0, {"naive-moe": 77.0}, batch=4),
        contender("ours-moe", 41.0, AGAINST),
        contender("ours-moe", 1234.0, {**AGAINST_BF16, LIMIT_BF16: 0.5}, dtype="bfloat16"),
        contender("vmap", 37.0),
        contender("vmap", None, batch=2),
        contender("ours", 55.0),
    ]


def setting(**changed: Any) -> dict[str, Any]:
    return {
        "size": "small",
        "users": 32,
        "samples": 2,
        "tokens": 96,
        "lengths": "fixed",
        "seed": 0,
        "peaks": [],
        "contenders": contenders(),
        **changed,
    }


def engine_file(*settings: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "benchmark": "engine",
        "hardware": HARDWARE,
        "device": "cpu",
        "commit": COMMIT,
        "versions": {"torch": "2.9", "peft": "0.19"},
        "seed": 17,
        "rounds": 3,
        "warmup": 1,
        "dropout": 0.0,
        "history_tokens": 48_000,
        "interleaved": True,
        "load_before": 0.25,
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


def memory_file() -> dict[str, Any]:
    """Off by +10 %, -20 % and one whose training took nothing more than was there."""
    return {
        "benchmark": "memory",
        "hardware": HARDWARE,
        "commit": COMMIT,
        "versions": {"torch": "2.9"},
        "seed": 17,
        "sample_tokens": 96,
        "peaks": [
            memory_peak(110 * MIB, 100 * MIB),
            memory_peak(160 * MIB, 200 * MIB, users=64, recompute=True),
            memory_peak(10 * MIB, 0, users=2),
        ],
    }
