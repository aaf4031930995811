"""What a benchmark compares: variants of the model, seeds and folds, and which arms each one runs.

    variant   a structure with settings and options: a preset, an ablation, a number of experts
    cell      one variant with one seed and one fold: one release, and the arms over it

People and their division into folds follow from the first seed, so that all seeds are about the same
people. What does not depend on the structure (stage 1, the private LoRA alone, rivals) is run over
the first variant only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.settings import StageSettings, Structure, preset
from proper_model.tasks import load_task
from simulations.experiments.ablations import Ablation, fitting
from simulations.setup.options import DEMOS, OneRun, RunOptions

FULL = "full"
SHUFFLED = "stage3-shuffled"
OWN_ARMS = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3", SHUFFLED)
# What other structures share with the first one, and the presets that train even these otherwise.
SHARED_ARMS = ("stage1", "oppu-mlp")
TRAINS_ALL_ANEW = frozenset({"calibrated"})
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Variant:
    """One structure, its settings and options, and what is run over it.

    Attributes:
        changed: in words, what differs from the preset.
        rivals: methods of `simulations.baselines`, by name.
    """

    name: str
    options: RunOptions
    structure: Structure
    settings: StageSettings
    arms: tuple[str, ...]
    rivals: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def runs(self, seed: int, people_seed: int) -> Iterator[OneRun]:
        """One run a fold, with people of another seed than the training's."""
        for run in replace(self.options, seed=seed).runs():
            yield replace(
                run,
                reading=replace(run.reading, seed=people_seed, settings=self.settings),
                training=replace(run.training, structure=self.structure),
            )


@dataclass(frozen=True)
class Plan:
    """A whole benchmark.

    Attributes:
        pairs: rows that are compared, first minus second.
        lengths: histories are also cut to so many of the newest items.
        routing: whether the mean weights of every person are read.
        notes: what a reader must know.
    """

    experiment: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    pairs: Pairs
    lengths: tuple[int, ...] = ()
    routing: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, values in (("--seeds", self.seeds), ("--lengths", self.lengths)):
            if len(set(values)) != len(values):
                raise ConfigError(f"{option} names a number twice", hint="name each once")
        if not self.seeds:
            raise ConfigError("--seeds is empty", hint="for example --seeds 0,1,2")
        if any(length < 1 for length in self.lengths):
            raise ConfigError("--lengths must be at least 1", hint="for example --lengths 1,3,8")

    @property
    def out(self) -> Path:
        return self.variants[0].options.out

    def row(self, arm: str, variant: Variant) -> str:
        """The name of a row: with the variant's, where there are several and the arm is its own."""
        if len(self.variants) == 1 or (
            variant is self.variants[0] and arm not in structural_arms(OWN_ARMS)
        ):
            return arm
        return f"{arm} ({variant.name})"

    def comparing(self, rows: Iterable[tuple[str, Variant, str, Variant]]) -> Plan:
        """The same with comparisons of an arm over a variant with another one."""
        pairs = tuple((self.row(a, first), self.row(b, second)) for a, first, b, second in rows)
        return replace(self, pairs=pairs)


def structural_arms(arms: Sequence[str]) -> tuple[str, ...]:
    """Those that depend on the structure."""
    return tuple(arm for arm in arms if arm not in SHARED_ARMS)


@dataclass(frozen=True)
class Asked:
    """What the command line said beside the options of a run."""

    presets: tuple[str, ...] = ("default",)
    seeds: tuple[int, ...] = (0,)
    lengths: tuple[int, ...] = ()
    rivals: tuple[str, ...] | None = None  # None: all that are defined for the task
    experts: tuple[int, ...] = (2, 5, 8)


def table1(options: RunOptions, asked: Asked) -> Plan:
    """All methods on one data set; a preset more is a structure more."""
    rivals, notes = _rivals(options, asked.rivals)
    variants = []
    for place, name in enumerate(asked.presets):
        anew = not place or name in TRAINS_ALL_ANEW
        arms = OWN_ARMS if anew else structural_arms(OWN_ARMS)
        variants.append(_variant(options, name, name, arms, () if place else rivals))
    plan = Plan("table1", tuple(variants), asked.seeds, (), asked.lengths, notes=notes)
    return replace(plan, pairs=_pairs_of_table1(plan, rivals))


def table2(options: RunOptions, asked: Asked) -> Plan:
    """The least active people: PROPER against the private LoRA alone."""
    arms = ("stage1", "stage2", "oppu-mlp", "stage3")
    name = _only(asked.presets)
    pairs = (("stage3", "oppu-mlp"), ("stage3", "stage2"), ("stage3", "stage1"))
    variant = _variant(options, name, name, arms)
    return Plan("table2", (variant,), asked.seeds, pairs, asked.lengths)


def table3(options: RunOptions, asked: Asked) -> Plan:
    """The full model, and what is lost without a part of it."""
    name = _only(asked.presets)
    full = _variant(options, name, FULL, ("stage1", "stage2", "oppu-mlp", "stage3", SHUFFLED))
    kept, left_out = fitting(full.structure, full.settings)
    variants, judged = [full], [("stage3", "stage2", full)]
    for title, ablation in kept.items():
        variant = full
        if ablation.arm != SHUFFLED:
            structure, settings = ablation.apply(full.structure, full.settings)
            changed = replace(options, **ablation.options)
            arms = (ablation.arm,)
            variant = Variant(title, changed, structure, settings, arms, changed=_said(ablation))
            variants.append(variant)
        judged.append((ablation.judged_against, ablation.arm, variant))
    notes = tuple(f"left out: {title}, since {why}" for title, why in left_out.items())
    plan = Plan("table3", tuple(variants), asked.seeds, (), notes=notes)
    return plan.comparing((a, full, b, variant) for a, b, variant in judged)


def experts(options: RunOptions, asked: Asked) -> Plan:
    """Figure 6: the number of experts; the middle one is what the others are compared with."""
    name = _only(asked.presets)
    base = preset(name)
    counts = sorted(set(asked.experts))
    if not counts or counts[0] < 1:
        raise ConfigError("--experts must be numbers of at least 1", hint="for example 2,5,8")
    variants = tuple(
        Variant(
            f"{count} experts",
            options,
            replace(base, experts=count),
            options.settings,
            ("stage1", "stage2", "stage3") if not place else ("stage2", "stage3"),
            changed=(f"experts = {count}",),
        )
        for place, count in enumerate(counts)
    )
    plan, middle = Plan("fig6-experts", variants, asked.seeds, ()), variants[len(variants) // 2]
    return plan.comparing(
        (arm, middle, arm, variant)
        for variant in variants
        for arm in ("stage2", "stage3")
        if variant is not middle
    )


def efficiency(options: RunOptions, asked: Asked) -> Plan:
    """Figure 6: parameters and time of every stage, against the private LoRA alone.

    Its phases are trained for it: one found in a cache would have taken no time.
    """
    name = _only(asked.presets)
    options = options if options.cache else replace(options, cache=options.out / "cache")
    variant = _variant(options, name, name, ("stage1", "stage2", "oppu-mlp", "stage3"))
    pairs = (("stage3", "oppu-mlp"),)
    return Plan("fig6-efficiency", (variant,), asked.seeds, pairs)


def densities(options: RunOptions, asked: Asked) -> Plan:
    """Figures 4 and 5: routing with and without the user's half and the constraint loss."""
    name = _only(asked.presets)
    full = _variant(options, name, FULL, ("stage1", "stage2"))
    without = Ablation(
        structure={"router_user": False}, settings={"group": {"constraint_weight": 0.0}}
    )
    variants, notes, title = [full], [], "text router, no constraint"
    try:
        structure, settings = without.apply(full.structure, full.settings)
    except ConfigError as error:
        notes.append(f"preset {name} has no counterpart without the user's half: {error.message}")
    else:
        said = _said(without)
        variants.append(Variant(title, options, structure, settings, ("stage2",), changed=said))
    seeds = asked.seeds[:1]
    plan = Plan("fig45", tuple(variants), seeds, (), routing=True, notes=tuple(notes))
    return plan.comparing(("stage2", full, "stage2", variant) for variant in variants[1:])


def one_person(options: RunOptions, asked: Asked) -> Plan:
    """Figure 3: one person's texts and what every stage answers."""
    name = _only(asked.presets)
    variant = _variant(options, name, name, ("stage1", "stage2", "oppu-mlp", "stage3"))
    pairs = (("stage3", "stage1"), ("stage3", "oppu-mlp"))
    return Plan("fig3", (variant,), asked.seeds[:1], pairs)


def _variant(
    options: RunOptions,
    name: str,
    title: str,
    arms: tuple[str, ...],
    rivals: tuple[str, ...] = (),
) -> Variant:
    return Variant(title, options, preset(name), options.settings, arms, rivals)


def _only(presets: tuple[str, ...]) -> str:
    if len(presets) != 1:
        raise ConfigError(
            "this experiment takes one preset, got " + ", ".join(presets),
            hint="give one; exp table1 compares presets",
        )
    return presets[0]


def _said(ablation: Ablation) -> tuple[str, ...]:
    """In words, what an ablation changes."""
    fields = [f"{name} = {value}" for name, value in ablation.structure.items()]
    fields += [
        f"{part}.{name} = {value}"
        for part, values in ablation.settings.items()
        for name, value in values.items()
    ]
    return (*fields, *(f"{name} = {value}" for name, value in ablation.options.items()))


def _rivals(
    options: RunOptions, asked: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the methods to run beside PROPER's, and why others are left out."""
    from simulations.baselines import registry

    task = load_task(DEMOS.get(options.data) or str(options.task), template=options.template)
    names = list(registry.ARMS) if asked is None else list(asked)
    registry.check_names(names)
    why = {name: registry.fits(name, task) for name in names}
    if asked is not None and (unfit := [f"{n}: {reason}" for n, reason in why.items() if reason]):
        raise ConfigError(unfit[0], hint="leave it out of --rivals")
    notes = tuple(f"left out: {name}, since {reason}" for name, reason in why.items() if reason)
    return tuple(name for name in names if not why[name]), notes


def _pairs_of_table1(plan: Plan, rivals: Sequence[str]) -> Pairs:
    """What each structure is compared with: its own stages, the private LoRA, and every rival."""
    first, pairs = plan.variants[0], [("oppu-mlp", "stage1")]
    for variant in plan.variants:
        stage2, stage3 = plan.row("stage2", variant), plan.row("stage3", variant)

        def shared(arm: str, own: Variant = variant) -> str:
            return plan.row(arm, own if arm in own.arms else first)

        pairs += [
            (stage3, shared("stage1")),
            (stage3, shared("oppu-mlp")),
            (stage3, stage2),
            (stage2, shared("stage1")),
            (stage2, shared("oppu-mlp")),
            (stage2, plan.row("stage2-mean", variant)),
            (stage3, plan.row(SHUFFLED, variant)),
            *((stage3, rival) for rival in rivals),
        ]
    return tuple(dict.fromkeys(pairs))
