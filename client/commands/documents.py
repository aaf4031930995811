"""What each command of `proper` prints with `--json`, as types: docs/json-schema.json is made of them.

Commands make their documents without these, since loading them takes time; tests hold the two together.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proper_model.json_output.schema import Document, Documents, Part


class Took(Part):
    seconds: float
    peak_bytes: int = Field(description="the most memory of the whole process")
    expected_s: list[float] = Field(description="the fastest and the slowest that were expected")


class Phase(Part):
    name: str
    fastest_s: float
    slowest_s: float
    stops_early: bool


class Plan(Part):
    items: int
    fastest_s: float
    slowest_s: float
    memory_bytes: int
    disk_bytes: int = Field(description="the most while it trains")
    kept_bytes: int = Field(description="of disk, afterwards")
    gpu_bytes: int
    phases: list[Phase]


class Outcome(Part):
    task: str
    items: int
    items_waiting: int = Field(description="that wait for an update")
    adapter: bool = Field(description="whether there is one of your own")
    least_items: int | None = Field(description="from how many on there is one; null: never")
    embedding_source: str | None
    report: dict[str, float | int | str | None] = Field(description="losses, rate, privacy")


class Start(Document):
    release_version: int
    bundle_id: str
    changed: bool = Field(description="false: it was there")
    base: str
    task: str
    template: str
    profile: str
    copied_to: str | None = Field(description="the folder of --out")
    fields: list[str] = Field(description="of an item")


class NewTask(Document):
    file: str
    task: str
    fields: list[str]


class BundleAdd(Document):
    release_version: int
    bundle_id: str
    changed: bool
    notes: list[str]
    warnings: list[str]


class Release(Part):
    bundle_id: str
    version: int
    current: bool
    channel: str
    created: str
    expires: str
    task: str
    preset: str
    base: str
    size_bytes: int
    warnings: list[str]


class BundleList(Document):
    releases: list[Release]


class BundleVerify(Document):
    release_version: int
    bundle_id: str
    relation: str = Field(description="to what is installed")
    files: int
    size_bytes: int
    notes: list[str]
    warnings: list[str]


class BaseAdd(Document):
    folder: str
    changed: bool


class Base(Part):
    name: str
    folder: str = Field(description="empty: not here")
    license: str
    parameters: int
    size_bytes: int


class BaseList(Document):
    bases: list[Base]


class BaseShow(Document):
    facts: dict[str, str | int | bool]


class AdaptPlan(Document):
    plan: Plan = Field(description="with --plan")


class Adapt(Document, Outcome):
    took: Took


class Updated(Part):
    new_items: int
    rehearsed: int
    judged: bool
    kept: bool
    harmed: bool = Field(description="new items gained, but old ones lost too much")
    loss_before: float | None
    loss_after: float | None
    old_judged: int = Field(description="old items that did not train and judged the result")
    old_loss_before: float | None
    old_loss_after: float | None


class Update(Document):
    task: str
    new_items: int
    updated: Updated | None
    adapted: Outcome | None = Field(description="where there was no adapter to go on from")
    took: Took | None


class Rebase(Document):
    release_version: int
    bundle_id: str
    changed: bool
    tasks: list[Outcome]
    took: Took | None


class Forget(Document):
    everything: Literal[False]
    task: str
    forgotten: int
    items: int
    took: Took


class ForgetAll(Document):
    everything: Literal[True]
    changed: bool
    warnings: list[str]


class Gain(Part):
    delta: float | None = Field(
        description="the highest stage minus stage 1; null: some loss is no number"
    )
    p: float | None = Field(description="how likely chance alone gives as much; null: as above")


class Evaluate(Document):
    task: str
    trained: int
    tested: int
    scores: dict[str, dict[str, float | None]] = Field(
        description="by stage, then metric; null: no number, such as an endless loss"
    )
    gains: dict[str, Gain]
    unusable: dict[str, float] = Field(
        description="by stage, the share of answers that are empty, or none of the labels"
    )
    verdict: str
    warnings: list[str]
    took: Took


class Event(Part):
    at: str
    what: str
    task: str
    items: int
    bundle_id: str


class Inspect(Document):
    task: str
    items: int
    items_waiting: int
    items_from: str | None
    items_to: str | None
    retrieve: int | str
    release_version: int
    bundle_id: str
    adapted_at: str
    adapter_numbers: int
    adapter_bytes: int
    adapter_norm: float
    embedding_source: str | None
    embedding_distance: float | None
    items_held_back: int | None
    lora_learning_rate: float | None
    lora_epochs: int | None
    lora_loss_before: float | None
    lora_loss_after: float | None
    loss_without_own_items_before: float | None
    private_epsilon: float | None
    private_delta: float | None
    private_accountant: str | None
    private_steps: int | None
    private_sampling_rate: float | None
    private_clip_norm: float | None
    private_noise_multiplier: float | None
    private_trainings: int | None
    private_epsilon_all: float | None
    private_delta_all: float | None
    stage3_weight: float
    temperature: float
    routing: dict[str, list[float]] | None
    events: list[Event]
    warnings: list[str]


class Listed(Part):
    number: int
    id: str
    date: str
    preview: str = Field(description="the item's first words: private")


class InspectItems(Document):
    listed: list[Listed] = Field(description="with --items")


class Generate(Document):
    stage: str
    answer: str


class Answer(Part):
    stage: str
    wording: Literal["task", "chat"] = Field(
        description="of the trained task, or the base's chat template"
    )
    text: str


class Chat(Document):
    task: str
    answers: list[Answer]


class GenerateFile(Document):
    stage: str
    answers: int
    output: str


class Export(Document):
    format: str
    place: str
    size_bytes: int
    exact_nll: float | None = Field(description="loss a token, as proper answers")
    folded_nll: float | None = Field(description="and of the export; null: not measured")


class Import(Document):
    tasks: list[str]
    items: int
    release_here: bool = Field(description="false: proper rebase comes next")


class Slot(Part):
    slot: str
    kind: str


class Status(Document):
    folder: str
    generations: int
    bytes: int
    content: str
    warnings: list[str]
    interrupted: bool
    leftovers: int
    slots: list[Slot]
    release_version: int | None
    bundle_id: str | None


class Path(Document):
    folder: str


class Lock(Document):
    slots: list[Slot]


class Passwd(Document):
    changed: Literal["passphrase", "key-file", "keyring", "removed", "master-key"]
    slots: list[Slot]


class Rollback(Document):
    items: int
    generation: int


class Finding(Part):
    name: str
    ok: bool | None = Field(description="null: neither good nor bad")
    told: str


class Doctor(Document):
    findings: list[Finding]


class Serve(Document):
    page: str = Field(description="the page's address, with the token")
    api: str
    token: str


class Value(Part):
    name: str
    value: str | int | float | bool | None = Field(description="null: the default")
    source: Literal["flag", "environment", "file", "default"]
    option: str
    variable: str


class Config(Document):
    file: str
    settings: list[Value]


class ConfigSet(Document):
    file: str
    name: str
    value: str | int | float | bool


class ConfigUnset(Document):
    file: str
    changed: bool


class ConfigPath(Document):
    file: str
    there: bool


DOCUMENTS: Documents = {
    "start": (Start,),
    "new-task": (NewTask,),
    "bundle add": (BundleAdd,),
    "bundle list": (BundleList,),
    "bundle verify": (BundleVerify,),
    "base add": (BaseAdd,),
    "base list": (BaseList,),
    "base show": (BaseShow,),
    "adapt": (Adapt, AdaptPlan),
    "update": (Update,),
    "generate": (Generate, GenerateFile),
    "chat": (Chat,),
    "evaluate": (Evaluate,),
    "inspect": (Inspect, InspectItems),
    "export": (Export,),
    "import": (Import,),
    "rebase": (Rebase,),
    "forget": (Forget, ForgetAll),
    "serve": (Serve,),
    "status": (Status,),
    "path": (Path,),
    "lock": (Lock,),
    "passwd": (Passwd,),
    "rollback": (Rollback,),
    "doctor": (Doctor,),
    "config": (Config,),
    "config set": (ConfigSet,),
    "config unset": (ConfigUnset,),
    "config path": (ConfigPath,),
}
