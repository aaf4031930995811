"""Examples for the help of every command of `proper`; a test parses each."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "start": (
        "start --base smollm2 --task politeness_ratings",
        "start --base models/mine --task moods.toml --out my-release",
    ),
    "new-task": (
        "new-task moods.toml",
        "new-task moods.toml --name moods --item '{text} mood: {mood}' --answer 'calm, angry'",
    ),
    "bundle add": (
        "bundle add runs/demo/server/release",
        "bundle add https://example.org/release --root root.json",
    ),
    "bundle list": ("bundle list", "bundle list --json"),
    "bundle verify": ("bundle verify", "bundle verify Downloads/release"),
    "base add": ("base add smollm2", "base add model.gguf --out bases/mine"),
    "base list": ("base list",),
    "base show": ("base show bases/smollm2",),
    "adapt": (
        "adapt notes.jsonl --plan",
        "adapt notes.jsonl",
        "adapt goodreads.csv --max-items 500 --base-weights 4bit --max-memory 4",
    ),
    "update": ("update new-notes.jsonl", "update new-notes.jsonl --json"),
    "generate": (
        "generate 'a shy poet at a small wedding'",
        "generate --stage 1 'a shy poet at a small wedding'",
        "generate --input questions.jsonl --output answers.jsonl",
    ),
    "chat": ("chat", "chat --system 'Answer in one sentence.' --temperature 0.7 --seed 1"),
    "evaluate": ("evaluate", "evaluate --json"),
    "inspect": ("inspect", "inspect --items"),
    "export": (
        "export --format peft --out my-adapter",
        "export --format age-backup --out backup.age",
        "export --format history --out my-items.jsonl",
    ),
    "import": ("import backup.age", "import backup.age --replace"),
    "rebase": ("rebase", "rebase --resume"),
    "forget": (
        "forget --items 3,5-9",
        "forget --items before:2020 --items contains:ginger",
        "forget --all",
    ),
    "serve": ("serve", "serve --port 8765 --token-file token"),
    "status": ("status", "--passphrase-file secret status"),
    "path": ("path",),
    "lock": ("lock",),
    "passwd": ("passwd", "passwd --add-key-file /media/stick/proper.key", "passwd --rotate"),
    "rollback": ("rollback",),
    "doctor": ("doctor", "doctor --json"),
    "config": ("config", "config --json"),
    "config set": ("config set max_memory 4", "config set passphrase_file /home/me/secret"),
    "config unset": ("config unset max_memory",),
    "config path": ("config path",),
}
