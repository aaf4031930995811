"""The pipeline from a notebook, as docs/simulations.md shows it:

    results = Run(data="demo", out="runs/notebook").execute()

It does exactly what `proper-sim run` does, with the same checks and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.terminal.tables import to_markdown
from proper_model.progress import Progress, silent
from simulations.outcome.results import Contrast, Results
from simulations.pipeline import REPORT_FILE, execute
from simulations.reporting.tables import contrast_table, run_table
from simulations.setup.estimate import Estimate
from simulations.setup.options import ARMS, RunOptions


@dataclass(frozen=True)
class RunResults:
    """What a run found. `results` has everything that results.json has."""

    results: Results
    out: Path

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.out / REPORT_FILE

    def table(self) -> str:
        """Arms and metrics with intervals, as Markdown."""
        return to_markdown(run_table(self.results))

    def differences(self) -> str:
        """Differences between arms with intervals, as Markdown."""
        return to_markdown(contrast_table(self.results, brief=True))

    def metric(self, arm: str, metric: str) -> float:
        """Mean of a metric over all queries of an arm. Raises KeyError for unknown names."""
        return self.results.arms[arm].metrics[metric].mean

    def contrasts(self, a: str, b: str) -> list[Contrast]:
        """Arm a minus arm b in every metric and level."""
        return [row for row in self.results.contrasts if (row.a, row.b) == (a, b)]


class Run:
    """One simulated run; arguments are those of `proper-sim run`.

    Args:
        data: folder with OPPU's or LaMP's files, a dataset as "hf:NAME", or "demo".
        out: folder for everything the run leaves; new or empty unless resumed.
        task: shipped task or path of a task file; base: folder or hub id. The demo has its own.

    Raises:
        ConfigError: at once, if the arguments contradict each other.
    """

    def __init__(
        self,
        data: str | Path,
        out: str | Path,
        *,
        task: str | Path | None = None,
        base: str | Path | None = None,
        preset: str | None = None,
        profile: str | Path | None = None,
        columns: str | None = None,
        template: str | None = None,
        split: str = "given",
        stage2_users: str = "pooled",
        population_only: bool = False,
        folds: int = 1,
        fold: int | None = None,
        pooled_users: int | None = None,
        users: int | None = None,
        max_items: int | None = None,
        seed: int = 0,
        arms: Sequence[str] = ARMS,
        users_per_node: int | None = None,
        actors: int | None = None,
        threads: int | None = None,
        memory_budget: float | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.options = RunOptions(
            data=str(data),
            out=Path(out),
            task=None if task is None else str(task),
            base=None if base is None else str(base),
            preset=preset,
            profile=None if profile is None else str(profile),
            columns=columns,
            template=template,
            split=split,
            stage2_users=stage2_users,
            population_only=population_only,
            folds=folds,
            fold=fold,
            pooled_users=pooled_users,
            users=users,
            max_items=max_items,
            seed=seed,
            arms=tuple(arms),
            users_per_node=users_per_node,
            actors=actors,
            threads=threads,
            memory_budget=memory_budget,
            cache=None if cache is None else Path(cache),
        )

    def estimate(self, progress: Progress = silent) -> Estimate:
        """Time, memory and disk, before anything runs; prints as a table."""
        from simulations.setup.costs import plan_costs

        return plan_costs(self.options, progress)

    def execute(
        self,
        *,
        resume: bool = False,
        show_examples: bool = False,
        tensorboard: str | Path | None = None,
        progress: Progress = silent,
    ) -> RunResults:
        """Run everything; `tensorboard` is a folder for it as events. Raises a ProperError child whose `hint` says what to do next."""
        options = replace(self.options, resume=resume)
        results = execute(
            options,
            progress,
            show_examples=show_examples,
            tensorboard=None if tensorboard is None else Path(tensorboard),
        )
        return RunResults(results, options.out)
