"""What each command of `proper-sim` prints with `--json`, as types: docs/json-schema.json is made of them.

Scores are those of the result files, in fewer fields (`fields_of`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from proper_model.json_output.schema import Document, Documents, Part


class Lengths(Part):
    low: int
    median: int
    high: int


class Group(Part):
    users: int
    items: int
    queries: int
    items_a_user: Lengths
    queries_a_user: Lengths
    question_words: Lengths
    answer_words: Lengths
    gold_labels: dict[str, int] = Field(description="by label of the task")
    history_labels: dict[str, int]


class Problem(Part):
    severity: Literal["error", "warning"]
    count: int = Field(description="places where it is")
    told: str = Field(description="file, record and field, and what is wrong there")


class Validate(Document):
    name: str
    form: str = Field(description="of the files")
    task: str
    template: str
    errors: int
    warnings: int
    pooled: Group
    test: Group
    problems: list[Problem] = Field(description="the first ones")


class ValidateMade(Document):
    makes_people: str = Field(description="the data that need no validation: demo, demo:rate, ...")


class File(Part):
    file: str
    sha256: str
    size_bytes: int
    records: int


class Fetch(Document):
    files: list[File]


class Next(Document):
    out: str
    next: str = Field(description="the command that goes on with it")


class Range(Part):
    low: float
    high: float


class Phase(Part):
    name: str
    fastest_s: float
    slowest_s: float


class Plan(Document):
    phases: list[Phase] = Field(description="with --plan")
    fastest_s: float
    slowest_s: float
    memory_bytes: Range = Field(description="of all processes together")
    disk_bytes: Range
    exceeding_bytes: float = Field(description="beyond the memory budget, for the longest sample")


class Score(Part):
    mean: float | None = Field(description="over queries; null: no number")
    low: float | None
    high: float | None
    user_mean: float | None = Field(description="the same with every user weighing the same")
    user_low: float | None
    user_high: float | None


class Arm(Part):
    n_users: int
    n_queries: int
    metrics: dict[str, Score]


class Difference(Part):
    a: str
    b: str
    metric: str
    level: str = Field(description="of what the mean is: queries or users")
    delta: float | None = Field(description="a minus b; null: no number")
    low: float | None
    high: float | None


class Scores(Part):
    task: str
    template: str
    base: str
    preset: str
    profile: str
    seed: int
    split: str
    commit: str
    arms: dict[str, Arm]
    contrasts: list[Difference]
    timings_s: dict[str, float] = Field(description="seconds by phase")


class Scored(Document, Scores):
    out: str
    results: str = Field(description="results.json")
    report: str
    warnings: list[str]


class Page(Document):
    page: str
    sources: int = Field(description="files or runs that it shows")


class Pages(Page):
    pages: list[str] = Field(description="the page and those it links to")


class Source(Scores):
    source: str


class Compared(Document):
    results: list[Source]


class Costs(Part):
    trained_tokens: int = Field(description="forward and backward")
    judged_tokens: int = Field(description="forward only")
    seconds: float
    cpu_seconds: float


class Condition(Part):
    sets: dict[str, Arm] = Field(description="by set of questions")
    costs: Costs | None


class SetDifference(Difference):
    on: str = Field(description="the set of questions")


class Experiment(Part):
    """Of `exp drift` and `exp multitask`."""

    experiment: str
    tasks: list[str]
    base: str
    preset: str
    profile: str
    seed: int
    split: str
    users: int
    commit: str
    conditions: dict[str, Condition]
    contrasts: list[SetDifference]
    facts: dict[str, float | int | None] = Field(description="counts and shares")
    notes: list[str]


class ExperimentLeft(Document, Experiment):
    result: str
    figure: str


class Row(Part):
    arm: str
    variant: str
    metrics: dict[str, Score]
    training: Costs | None
    answering: Costs | None


class Comparison(Difference):
    p: float | None
    p_holm: float | None = Field(description="after Holm's correction over the table")
    people: int
    helped: float | None = Field(description="share of people")
    hurt: float | None
    detectable: float | None = Field(description="difference that four of five samples would show")
    by_seed: list[float | None]


class Variant(Part):
    preset: str
    changed: list[str]
    parameters: dict[str, int]
    seconds: dict[str, float]


class Benchmark(Part):
    """Of the paper's tables and figures."""

    experiment: str
    task: str
    base: str
    profile: str
    split: str
    seeds: list[int]
    folds: int
    users: int
    queries: int
    commit: str
    variants: dict[str, Variant]
    rows: dict[str, Row]
    comparisons: list[Comparison]
    notes: list[str]


class BenchmarkLeft(Document, Benchmark):
    result: str
    table: str = Field(description="the tables in Markdown")
    page: str
    figures: list[str]


class ExperimentSource(Experiment):
    source: str


class BenchmarkSource(Benchmark):
    source: str


class Experiments(Document):
    experiments: list[ExperimentSource]
    benchmarks: list[BenchmarkSource]


class Advantage(Part):
    value: float | None = Field(description="0 is guessing, 1 is certain")
    low: float | None
    high: float | None


class Line(Part):
    experiment: str
    task: str
    people: str = Field(description="how many, of which task, in how many seeds")
    asked: str
    thing: str
    attack: str
    advantage: Advantage | None = Field(description="null: there is nothing to attack")
    instead: str | None = Field(description="why there is nothing")
    without: Advantage | None = Field(description="without the defence; null: there is none")
    sentence: str = Field(description="for a record of processing")


class Attack(Part):
    experiment: str
    task: str
    base: str
    preset: str
    profile: str
    seeds: list[int]
    people: int
    commit: str
    lines: list[Line] = Field(description="of every thing and question the attack that found most")
    sentences: list[str] = Field(description="all of them, those of the lines too")
    failed: list[str] = Field(description="controls that did not do what they must")
    notes: list[str]


class AttackLeft(Document, Attack):
    result: str
    table: str = Field(description="the tables in Markdown")
    page: str


class AttackSource(Attack):
    source: str


class Attacks(Document):
    results: list[AttackSource]


class AttackReport(Document):
    lines: list[Line]
    failed: list[str]
    page: str | None = Field(description="of --out")


class Scanned(Part):
    name: str
    canaries: int
    files: int
    leaks: int
    never_found: int
    false_alarms: int
    incomplete: int = Field(description="places that could not be looked at to their end")
    network: int = Field(description="tries to reach one")


class Egress(Document):
    result: str
    seed: int
    commit: str
    clean: Literal[True] = Field(description="an error's document has the same with false")
    runs: list[Scanned]
    sentence: str


DOCUMENTS: Documents = {
    "validate": (Validate, ValidateMade),
    "fetch": (Fetch,),
    "prepare": (Next,),
    "launch": (Next,),
    "run": (Scored, Plan),
    "score": (Scored,),
    "report": (Page,),
    "table": (Compared,),
    **{f"exp {name}": (ExperimentLeft,) for name in ("drift", "multitask")},
    **{
        f"exp {name}": (BenchmarkLeft,)
        for name in (
            *("table1", "table2", "table3", "fig3", "fig45"),
            *("fig6-efficiency", "fig6-experts"),
        )
    },
    "exp table": (Experiments,),
    "exp page": (Pages,),
    **{
        f"privacy {name}": (AttackLeft,)
        for name in (
            *("membership", "canaries", "linkage", "inversion"),
            *("epsilon", "deletion", "poisoning", "backdoor"),
        )
    },
    "privacy egress": (Egress,),
    "privacy table": (Attacks,),
    "privacy report": (AttackReport,),
}


def fields_of(part: type[Part], result: BaseModel) -> dict[str, Any]:
    """What a document says of a result file: the fields that both have, by the same names."""
    return result.model_dump(mode="json", include=set(part.model_fields))
