"""Examples for the help of every command of `proper-sim`; a test parses each."""

from __future__ import annotations

_NEWS = "data/LaMP_2M --task LaMP_2M"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "validate": (f"validate {_NEWS}",),
    "fetch": ("fetch LaMP_2M --split time --out data/LaMP_2M",),
    "prepare": (f"prepare {_NEWS} --base models/mini --profile tiny --out runs/news",),
    "launch": ("launch runs/news",),
    "run": (
        "run demo --out runs/demo",
        f"run {_NEWS} --base models/mini --profile tiny --out runs/news --plan",
        f"run {_NEWS} --base models/mini --profile tiny --out runs/news --resume",
    ),
    "score": ("score runs/news", "score runs/news --show-examples"),
    "report": ("report runs/news", "report runs/news runs/demo --out both.html"),
    "table": ("table runs/demo/results.json", "table runs/demo/results.json --markdown"),
    "exp drift": ("exp drift demo --out runs/drift",),
    "exp multitask": (
        f"exp multitask {_NEWS} --second-task LaMP_2N --base models/mini --out runs/two-tasks",
    ),
    "exp table1": ("exp table1 demo --out runs/table1",),
    "exp table2": ("exp table2 demo --out runs/table2",),
    "exp table3": ("exp table3 demo --out runs/table3",),
    "exp fig3": ("exp fig3 demo --out runs/fig3",),
    "exp fig45": ("exp fig45 demo --out runs/fig45",),
    "exp fig6-efficiency": ("exp fig6-efficiency demo --out runs/efficiency",),
    "exp fig6-experts": ("exp fig6-experts demo --out runs/experts",),
    "exp table": ("exp table runs/table1/table1.json --only means --markdown",),
    "exp page": ("exp page runs/table1/table1.json --out table1.html",),
    "privacy membership": ("privacy membership demo:text --out runs/membership",),
    "privacy canaries": ("privacy canaries demo:text --out runs/canaries",),
    "privacy linkage": ("privacy linkage demo --out runs/linkage",),
    "privacy inversion": ("privacy inversion demo --out runs/inversion",),
    "privacy epsilon": ("privacy epsilon demo --epsilons 1,8,inf --out runs/epsilon",),
    "privacy deletion": ("privacy deletion demo --out runs/deletion",),
    "privacy poisoning": ("privacy poisoning demo --out runs/poisoning",),
    "privacy backdoor": ("privacy backdoor demo:text --out runs/backdoor",),
    "privacy egress": ("privacy egress --out runs/egress",),
    "privacy table": ("privacy table runs/canaries/canaries.json --markdown",),
    "privacy report": ("privacy report runs/canaries/canaries.json --out page.html",),
}
