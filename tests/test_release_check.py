"""Signed content that no device could use is refused before it is signed, installed or loaded."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bundle_samples import (
    CONFIG,
    FEED_FORWARD,
    KEY,
    NOW,
    POPULATION,
    ROOT,
    TASK_TOML,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WIDTH,
    base_files,
    base_tensors,
    constant,
    int64s,
    population_lora,
    referring_files,
    sample_files,
    sample_info,
    sample_recipe,
    tensor_file,
    whole_shared,
)

from client.releases.install import install
from client.releases.store import installed
from coordinator.publish import publish
from proper_model.answering.sampling import Sampling, seeded
from proper_model.answering.streaming import stream_tokens
from proper_model.bundle.limits import Limits
from proper_model.bundle.manifest import BaseReference
from proper_model.bundle.signed_bundle import build_bundle
from proper_model.checks.release import check_files
from proper_model.errors import BundleError, BundleFormatError, BundleLimitError, TrainingError
from proper_model.federation.protocol import sha256_hex
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass
from proper_model.release.contents import _named_targets, expected_shared
from proper_model.release.recipe import parse_recipe
from proper_model.settings.calibration import Calibrated, Calibration
from proper_model.settings.presets import PRESETS, EmbeddingSource, UserRouting, preset
from proper_model.settings.settings_io import to_mapping
from proper_model.stages.inferred_embedding import inferred_shapes
from tests.tiny import adapted, encoder, tiny_base

Files = dict[str, bytes]
RECIPE = json.loads(sample_recipe())
DEEP = "[" * 100_000 + "]" * 100_000


def without(name: str) -> Files:
    return {n: d for n, d in sample_files().items() if n != name}


def put(name: str, data: bytes | str | dict[str, Any]) -> Files:
    if isinstance(data, dict):
        data = json.dumps(data)
    return {**sample_files(), name: data.encode() if isinstance(data, str) else data}


def recipe(change: Callable[[dict[str, Any]], object]) -> Files:
    value = json.loads(sample_recipe())
    change(value)
    return put("recipe.json", value)


def structure(**fields: Any) -> Files:
    return recipe(lambda r: r["structure"].update(fields))


def settings(**fields: Any) -> Files:
    return recipe(lambda r: r["settings"].update(fields))


def config(**fields: Any) -> Files:
    return put("base/config.json", {**CONFIG, **fields})


def shared(**tensors: Any) -> Files:
    """Shared tensors replaced; None leaves one out. `__` stands for a dot."""
    found = whole_shared()
    for name, tensor in tensors.items():
        found[name.replace("__", ".")] = tensor
    kept = {n: t for n, t in found.items() if t is not None}
    return put("shared.safetensors", tensor_file(kept))


def base(**tensors: Any) -> Files:
    found = base_tensors() | {name.replace("__", "."): t for name, t in tensors.items()}
    return put(
        "base/model.safetensors", tensor_file({n: t for n, t in found.items() if t is not None})
    )


def tokenizer(**fields: Any) -> Files:
    return put("tokenizer/tokenizer.json", {**TOKENIZER, **fields})


def vocabulary(**words: int) -> Files:
    model = {**TOKENIZER["model"], "vocab": {**TOKENIZER["model"]["vocab"], **words}}
    return tokenizer(model=model)


def tokenizer_config(**fields: Any) -> Files:
    return put("tokenizer/tokenizer_config.json", {**TOKENIZER_CONFIG, **fields})


def task(old: str, new: str) -> Files:
    assert old in TASK_TOML
    return put("task.toml", TASK_TOML.replace(old, new))


def chat_template(text: bytes) -> Files:
    return put("tokenizer/chat_template.jinja", text)


def calibrated(**changes: Any) -> Files:
    """A recipe with a calibration of one row; None leaves a field of the row out."""
    row = {**to_mapping(ROW), **changes}
    kept = {name: value for name, value in row.items() if value is not None}
    return recipe(lambda r: r.update(calibration={"stage3": [kept], "oppu_mlp": []}))


def started(arm: str = "stage3", **tensors: Any) -> Files:
    """A whole common start of an arm, with some tensors replaced; None leaves one out."""
    return shared(**start(arm) | tensors)


def start(arm: str) -> dict[str, Any]:
    found: dict[str, Any] = {f"starts__{arm}__count": ("I64", (1,), int64s(12))}
    for name, (d_out, d_in) in FEED_FORWARD.items():
        site = f"starts__{arm}__model__layers__0__mlp__{name}_proj__"
        found |= {site + "A": constant(1, d_in, value=0.5), site + "B": constant(d_out, 1)}
    return found


ROW = Calibrated(3, 1e-3, 2, 1.0, 0.5, 0.75, 1.25)
UP = "experts__model__layers__0__mlp__up_proj__"
START = "starts__stage3__model__layers__0__mlp__up_proj__"
MISSING = {f"without {name}": without(name) for name in sample_files()}
RECIPES = {
    "twice": put("recipe.json", sample_recipe()[:-1] + b',"seed":1}'),
    "large": put("recipe.json", b" " * (2 << 20) + sample_recipe()),
    "unknown field": recipe(lambda r: r.update(code="os")),
    "no settings": recipe(lambda r: r.pop("settings")),
    "format true": recipe(lambda r: r.update(format=True)),
    "format 2": recipe(lambda r: r.update(format=2)),
    "template 1": recipe(lambda r: r.update(template=1)),
    "template nowhere": recipe(lambda r: r.update(template="none")),
    "seed -1": recipe(lambda r: r.update(seed=-1)),
    "seed huge": recipe(lambda r: r.update(seed=2**64)),
    "seed float": recipe(lambda r: r.update(seed=0.5)),
    "notes": recipe(lambda r: r.update(notes=[1])),
    "structure": recipe(lambda r: r.update(structure=[])),
    "a base nobody signed": recipe(lambda r: r.update(base={"name": "/tmp/x", "revision": "r"})),
    "base text": recipe(lambda r: r.update(base="org/model")),
    "experts 0": structure(experts=0),
    "experts huge": structure(experts=10**12),
    "experts more": structure(experts=3),
    "rank -1": structure(rank=-1),
    "rank huge": structure(rank=10**9),
    "alpha huge": structure(alpha=1e300),
    "width": structure(embedding_dim=3),
    "router": structure(router_text="token", router_sharing="per_linear"),
    "name": structure(name="a\x1b[2J"),
    "epochs": settings(user={"epochs": 10**9}),
    "batch": settings(group={"batch_size": 10**12}),
    "prompt": settings(max_prompt_tokens=-5),
    "answer": settings(max_answer_tokens=10**15),
    "unknown setting": settings(exec="x"),
    "rates": settings(user={"learning_rates": [1e-3] * 100_000}),
    "people to calibrate with": settings(calibration={"people": -1}),
    "calibration null": recipe(lambda r: r.update(calibration=None)),
    "calibration list": recipe(lambda r: r.update(calibration=[])),
    "calibration of an arm nobody knows": recipe(lambda r: r.update(calibration={"stage4": []})),
    "a calibrated row as text": recipe(lambda r: r.update(calibration={"stage3": ["x"]})),
    "a calibrated row with code": calibrated(code="os"),
    "a calibrated row without weight": calibrated(weight=None),
    "calibrated items": calibrated(items=0),
    "calibrated items true": calibrated(items=True),
    "calibrated epochs": calibrated(epochs=10**9),
    "calibrated rate": calibrated(learning_rate=1e300),
    "calibrated scale": calibrated(scale=2.0),
    "calibrated weight": calibrated(weight=-0.5),
    "calibrated temperature": calibrated(temperature=0.0),
    "calibrated rows": recipe(
        lambda r: r.update(calibration={"stage3": [to_mapping(ROW)] * 100_000})
    ),
    "calibrated out of order": recipe(
        lambda r: r.update(calibration={"stage3": [to_mapping(ROW)] * 2})
    ),
}
CONFIGS = {
    "no object": put("base/config.json", "7"),
    "no type": put("base/config.json", {k: v for k, v in CONFIG.items() if k != "model_type"}),
    "a type of pictures": config(model_type="llava"),
    "a type nobody knows": config(model_type="x/../y"),
    "type as list": config(model_type=["llama"]),
    "code": config(auto_map={"AutoModelForCausalLM": "code--x.M"}),
    "kernel": config(attn_implementation="someone/kernel"),
    "packed": config(quantization_config={"quant_method": "gptq"}),
    "inner model": config(text_config={"model_type": "llama"}),
    "layers 0": config(num_hidden_layers=0),
    "layers -1": config(num_hidden_layers=-1),
    "layers huge": config(num_hidden_layers=10**9),
    "layers 2": config(num_hidden_layers=2),
    "layers 200": config(num_hidden_layers=200),
    "layers float": config(num_hidden_layers=1.0),
    "layers true": config(num_hidden_layers=True),
    "width": config(hidden_size=WIDTH + 4),
    "width huge": config(hidden_size=10**10),
    "heads 0": config(num_attention_heads=0),
    "heads 3": config(num_attention_heads=3),
    "heads text": config(num_attention_heads="1"),
    "head width": config(head_dim=10**6),
    "rows huge": config(vocab_size=2**40),
    "rows fewer": config(vocab_size=4),
    "activation": config(hidden_act="os.system"),
    "rope": config(rope_parameters={"rope_type": "no such", "rope_theta": 1e4}),
    "rope text": config(rope_parameters="x"),
    "epsilon": config(rms_norm_eps=1e300),
    "positions that follow the longest row": config(
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        max_position_embeddings=64,
    ),
    "layers of another kind": config(model_type="qwen3", layer_types=["linear_attention"]),
    "both ways": config(model_type="gemma3_text", use_bidirectional_attention=True),
}
TENSORS = {
    "no mean": shared(mean_embedding=None, mean_embedding_count=None),
    "no prototypes": shared(prototypes=None, prototype_counts=None),
    "prototypes of another width": shared(
        prototypes=constant(2, 1, 3, value=1.0), prototype_counts=("I64", (2,), int64s(12, 12))
    ),
    "no experts": shared(**{UP + "A": None, UP + "B": None}),
    "half an expert": shared(**{UP + "B": None}),
    "experts turned": shared(**{UP + "A": constant(2, WIDTH, 1)}),
    "experts of a further linear": shared(
        experts__model__layers__1__mlp__up_proj__A=constant(2, 1, WIDTH)
    ),
    "no router": shared(routers__tied__user=None),
    "a router too many": shared(
        routers__model__layers__0__mlp__up_proj__lora=constant(2, 6, value=0.1)
    ),
    "a start without a count": started(starts__stage3__count=None),
    "a count without a start": shared(starts__stage3__count=("I64", (1,), int64s(12))),
    "half a start": started(**{START + "B": None}),
    "a start turned": started(**{START + "A": constant(WIDTH, 1)}),
    "a start of a further linear": started(
        starts__stage3__model__layers__1__mlp__up_proj__A=constant(1, WIDTH)
    ),
    "a start of an arm nobody knows": started("stage9"),
    "a router of a user's own in a start": started(**{START + "W": constant(2, 6, value=0.1)}),
    "a start of 1024": started(**{START + "A": constant(1, WIDTH, value=1024.0)}),
    "an expert of 1e30": shared(**{UP + "A": constant(2, 1, WIDTH, value=1e30)}),
    "an expert of 1024": shared(**{UP + "A": constant(2, 1, WIDTH, value=1024.0)}),
    "a base of 1e38": base(lm_head__weight=constant(8, WIDTH, value=1e38)),
    "a base without a norm": base(model__norm__weight=None),
    "a base without a head": base(lm_head__weight=None),
    "a base of one more": base(model__layers__0__self_attn__q_norm__weight=constant(4)),
    "a base of another shape": base(model__norm__weight=constant(5)),
}
DTYPES = {
    "experts in F64": shared(**{UP + "A": ("F64", (2, 1, 4), struct.pack("<8d", *[0.5] * 8))}),
    "experts in I64": shared(**{UP + "A": ("I64", (2, 1, 4), int64s(*range(8)))}),
    "experts in BOOL": shared(**{UP + "A": ("BOOL", (2, 1, 4), bytes(8))}),
    "a base in F64": base(model__norm__weight=("F64", (4,), struct.pack("<4d", 1, 1, 1, 1))),
    "a base in I8": base(model__norm__weight=("I8", (4,), bytes(4))),
    "counts in I32": shared(prototype_counts=("I32", (2,), struct.pack("<2i", 12, 12))),
    "a negative count": shared(prototype_counts=("I64", (2,), int64s(-12, 12))),
}
TASKS = {
    "empty": put("task.toml", ""),
    "deep": put("task.toml", "a = " + DEEP),
    "large": put("task.toml", TASK_TOML + "# " + "x" * (2 << 20)),
    "kind": task('"generation"', '"sorting"'),
    "placeholder": task('query = "{text}"', 'query = "{os}"'),
    "words": task('query = "{text}"', 'query = "{text}"\nquery_words = -1'),
    "pattern": task(
        "[history.plain]", '[query]\npattern = "(?P<text>a{99999999999})"\n[history.plain]'
    ),
    "deep pattern": task(
        "[history.plain]", f"[query]\npattern = '{'(' * 9000}{')' * 9000}'\n[history.plain]"
    ),
    "name": task('"sample"', '"a b"'),
}
TOKENIZERS = {
    "no JSON": put("tokenizer/tokenizer.json", "{"),
    "deep": put("tokenizer/tokenizer.json", DEEP),
    "no model": put("tokenizer/tokenizer.json", {"version": "1.0"}),
    "an id beyond the rows": vocabulary(d=8),
    "a huge id": vocabulary(d=2**31),
    "no words": tokenizer(model={"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"}),
    "added tokens beyond the rows": tokenizer(
        added_tokens=[
            {
                "id": number,
                "content": f"<{number}>",
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                "special": False,
            }
            for number in range(5, 9)
        ]
    ),
    "no end": put("tokenizer/tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"}),
    "an end beyond the rows": {
        **tokenizer_config(eos_token="<a new one>"),
        "tokenizer/tokenizer.json": vocabulary(d=5, e=6, f=7)["tokenizer/tokenizer.json"],
    },
    "code": tokenizer_config(auto_map={"AutoTokenizer": ["code.T", None]}),
    "no class": put("tokenizer/tokenizer_config.json", {"eos_token": "</s>"}),
    "a class of code": tokenizer_config(tokenizer_class="../x.T"),
    "a class that reads other files": tokenizer_config(tokenizer_class="BertJapaneseTokenizer"),
    "config deep": put("tokenizer/tokenizer_config.json", DEEP),
    "template": chat_template(b"{% for %}"),
    "a template that raises": chat_template(b"{{ raise_exception('no') }}"),
    "a template that reaches out": chat_template(
        b"{{ messages.__class__.__mro__[1].__subclasses__() }}"
    ),
    "a template that drops the text": chat_template(b"hello"),
    "a normalizer that multiplies": tokenizer(
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 3000}]
            * 3,
        }
    ),
    "a decoder that multiplies": tokenizer(
        decoder={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5_000_000}
    ),
    "a large template": chat_template(b" " * (1 << 20)),
}
KINDS = {
    "file": MISSING,
    "recipe": RECIPES,
    "config": CONFIGS,
    "tensors": TENSORS,
    "task": TASKS,
    "tokenizer": TOKENIZERS,
}
CASES = [
    pytest.param(files, id=f"{kind}: {name}")
    for kind, cases in KINDS.items()
    for name, files in cases.items()
]


def test_a_whole_release_passes() -> None:
    found = check_files(sample_files())
    assert (found.recipe.seed, found.task.name) == (0, "sample")
    assert found.config is not None
    assert found.config["hidden_size"] == WIDTH
    assert found.tokenizer("a b")["input_ids"] == [2, 3]


def test_a_calibration_and_common_starts_are_read() -> None:
    assert check_files(sample_files()).recipe.calibration is None  # as releases before had none
    found = check_files(calibrated()).recipe
    assert found.calibration == Calibration(stage3=(ROW,))
    assert parse_recipe(found.to_bytes()) == found
    check_files(started())
    check_files(started("oppu-mlp"))


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (("I64", (1,), int64s(9)), "averages 9 users"),
        (("I64", (1,), int64s(0)), "averages 0 users"),
        (("I64", (2,), int64s(12, 12)), "one count"),
        (("F32", (1,), struct.pack("<f", 12.0)), "one count"),
        (None, "one count"),
    ],
)
def test_a_start_says_over_how_many_people_it_is(count: Any, says: str) -> None:
    files = started(starts__stage3__count=count)
    with pytest.raises(BundleFormatError, match=says):
        build_bundle(files, sample_info(), [KEY])
    build_bundle(started(), sample_info(), [KEY])


def test_positions_that_no_row_reaches_beyond_are_no_harm() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    check_files(config(rope_parameters=dynamic, max_position_embeddings=4096))


def test_rows_that_change_each_other_are_found_on_the_device_too() -> None:
    """Its recipe says how long rows are; a publisher's own check may have been another."""
    files = CONFIGS["positions that follow the longest row"]
    with pytest.raises(BundleFormatError, match="change each other's loss"):
        check_files(files)
    short = settings(max_prompt_tokens=40, max_answer_tokens=8)["recipe.json"]
    check_files({**files, "recipe.json": short})


@pytest.mark.parametrize("files", CASES)
def test_what_cannot_be_used_is_refused_by_one_error(files: Files) -> None:
    with pytest.raises(BundleFormatError) as caught:
        check_files(files)
    assert caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", DTYPES)
def test_numbers_of_another_kind_are_refused_with_the_manifest(name: str) -> None:
    with pytest.raises(BundleFormatError):
        build_bundle(DTYPES[name], sample_info(), [KEY])


@pytest.mark.parametrize(
    "name",
    [
        "base/adapter_config.json",
        "base/adapter_model.safetensors",
        "base/modeling.json",
        "base/more.safetensors",
        "base/chat_template.jinja",
        "base/tokenizer.json",
        "base/model-1-of-1.safetensors",
        "tokenizer/config.json",
        "tokenizer/additional_chat_templates/x.jinja",
        "tokenizer/preprocessor_config.json",
        "adapters/population/other.json",
        "adapters/mine/adapter_config.json",
        "notes.txt",
        "further.safetensors",
    ],
)
def test_only_names_that_are_read_may_be_in_a_bundle(name: str) -> None:
    data = tensor_file({}) if name.endswith(".safetensors") else b"{}"
    with pytest.raises(BundleFormatError) as caught:
        build_bundle({**sample_files(), name: data}, sample_info(), [KEY])
    assert name not in caught.value.message


@pytest.mark.parametrize(
    "named",
    [
        (),
        ("model.safetensors", "adapter_config.json"),
        ("sub/model.safetensors",),
        ("model-00001-of-00002.safetensors",),
        ("model.safetensors", "model-00001-of-00001.safetensors"),
    ],
)
def test_a_base_elsewhere_is_described_by_one_set_of_weights(named: tuple[str, ...]) -> None:
    hashes = dict.fromkeys(("config.json", *named), "0" * 64)
    reference = BaseReference("some/base", "abc", hashes)
    with pytest.raises(BundleFormatError):
        build_bundle(referring_files("some/base", "abc"), sample_info(base=reference), [KEY])


REFERENCE = BaseReference(
    "some/base", "abc", {name: sha256_hex(data) for name, data in base_files().items()}
)
POPULATION_CONFIG = "adapters/population/adapter_config.json"


def referring(**changes: Any) -> Files:
    return {**referring_files("some/base", "abc"), **changes}


def test_a_release_over_a_base_elsewhere_passes_with_and_without_its_configuration() -> None:
    files = referring()
    assert check_files(files, REFERENCE).config is not None
    config = files.pop("base/config.json")
    assert check_files(files, REFERENCE).config is None
    assert check_files(files, REFERENCE, config=config).config is not None


def test_without_groups_a_start_names_the_linears_of_a_base_that_is_not_at_hand() -> None:
    nobody = {
        "mean_embedding": constant(1, 1),
        "mean_embedding_count": ("I64", (1,), int64s(0)),
        "prototypes": ("F32", (0, 1, 1), b""),
        "prototype_counts": ("I64", (0,), b""),
    }
    alone = json.loads(referring()["recipe.json"])
    alone["structure"]["population_only"] = True

    def files(**tensors: Any) -> Files:
        named = {n.replace("__", "."): t for n, t in tensors.items() if t is not None}
        changed = {"recipe.json": json.dumps(alone).encode()}
        changed["shared.safetensors"] = tensor_file(nobody | named)
        return {n: d for n, d in referring(**changed).items() if n != "base/config.json"}

    both = start("stage3") | start("oppu-mlp")
    for found in (files(), files(**both), files(**start("oppu-mlp"))):
        assert check_files(found, REFERENCE).config is None
    for broken in ({START + "B": None}, {START + "A": None, START + "B": None}):
        with pytest.raises(BundleFormatError):
            check_files(files(**both | broken), REFERENCE)


@pytest.mark.parametrize(
    "files",
    [
        {**referring(), "recipe.json": sample_recipe()},
        referring_files("other/base", "abc"),
        referring_files("/etc", "abc"),
        referring_files("some/base", "main"),
        {n: d for n, d in referring().items() if n != POPULATION},
        referring(**{POPULATION: population_lora(qA=None)}),
        referring(**{POPULATION: population_lora(qA=constant(2, WIDTH), qB=constant(WIDTH, 2))}),
        referring(**{POPULATION: population_lora(qB=constant(WIDTH + 1, 1))}),
        referring(**{POPULATION: population_lora(qA=constant(1, WIDTH, value=2000.0))}),
        referring(**{POPULATION_CONFIG: b'{"auto_mapping":{"parent_library":"os"}}'}),
        referring(**{"base/config.json": json.dumps({**CONFIG, "hidden_size": 8}).encode()}),
    ],
)
def test_a_release_over_a_base_elsewhere_is_held_against_the_manifest(files: Files) -> None:
    with pytest.raises(BundleFormatError):
        check_files(files, REFERENCE)


def test_a_configuration_that_comes_later_is_held_against_the_release() -> None:
    files = referring()
    del files["base/config.json"]
    other = json.dumps({**CONFIG, "intermediate_size": 12}).encode()
    with pytest.raises(BundleFormatError, match="shared.safetensors"):
        check_files(files, REFERENCE, config=other)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_expected_tensors_are_those_a_model_has(name: str) -> None:
    base = tiny_base(dtype=torch.float32)
    model = AdaptedModel(base, preset(name), generator=torch.Generator().manual_seed(0))
    expected = expected_shared(preset(name), model.sites, directions=5)
    assert expected.pop("mean_embedding") == model.embedding_shape
    inferring = preset(name).embedding_source is EmbeddingSource.INFERRED
    shapes = inferred_shapes(preset(name), 5) if inferring else {}
    assert all(expected.pop(tensor) == shape for tensor, shape in shapes.items())
    assert expected == {n: tuple(t.shape) for n, t in _named_targets(model).items()}


BAD = [
    pytest.param(cases[name], id=name)
    for cases, name in (
        (RECIPES, "experts huge"),
        (CONFIGS, "layers huge"),
        (TASKS, "deep"),
        (TENSORS, "no mean"),
        (TOKENIZERS, "an id beyond the rows"),
        (MISSING, "without recipe.json"),
    )
]


@pytest.mark.parametrize("files", BAD)
def test_neither_publisher_nor_device_takes_it(files: Files, tmp_path: Any) -> None:
    with pytest.raises(BundleFormatError):
        publish(files, tmp_path / "release", [KEY], created=NOW, valid_for_days=3)
    host = tmp_path / "host"
    good = build_bundle(sample_files(), sample_info(1), [KEY])
    before = install(host, good.all_files(), ROOT, now=NOW).bundle
    signed = build_bundle(files, sample_info(2), [KEY])  # a publisher of another program
    with pytest.raises(BundleError):
        install(host, signed.all_files(), ROOT, now=NOW)
    after = installed(host, now=NOW)
    assert after is not None
    assert after.bundle_id == before.bundle_id
    assert sorted(path.name for path in (host / "bundles").iterdir()) == sorted(
        [".lock", "state.json", before.bundle_id]
    )


def test_a_key_that_says_nothing_of_the_model_is_left_out() -> None:
    """Attributes that transformers would set, or loop over, do not reach it."""
    extra = {
        "num_labels": 10**9,
        "return_dict": False,
        "_name_or_path": "/etc",
        "to_dict": 1,
        "chunk_size_feed_forward": 5,
        "architectures": ["Other"],
        "torch_dtype": "bfloat16",
    }
    found = check_files(config(**extra))
    assert found.config == CONFIG
    kept = check_files(
        tokenizer_config(
            vocab_file="/etc/passwd",
            fast_tokenizer_files=["x"],
            init_inputs=["y"],
            model_max_length=1000000000000000019884624838656,
        )
    ).tokenizer
    assert kept("a")["input_ids"] == [2]


def test_limits_are_checked_too() -> None:
    with pytest.raises(BundleLimitError):
        check_files(sample_files(), limits=Limits(tensors=3))


def test_scores_that_are_no_numbers_are_an_error_and_no_answer() -> None:
    """What bounds on single numbers cannot rule out shows when a token is chosen."""
    model = adapted("device")
    model.base.lm_head.weight.data.fill_(float("inf"))

    def stage_1(slots: torch.Tensor) -> Pass:
        return Pass(
            slots=slots, experts=False, lora=False, embeddings=None, routing=UserRouting.USER_AWARE
        )

    for sampling in (None, Sampling(1.0, seeded(0), 0.9)):
        with pytest.raises(TrainingError, match="no numbers"):
            list(
                stream_tokens(
                    model, encoder(), [2, 3], stage_1, max_new_tokens=2, sampling=sampling
                )
            )


def test_a_tokenizer_writes_nothing_of_its_own_to_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The tokenizers library prints the names of what it does not know, control characters too."""
    title = "\x1b]0;canary\x07"
    end = {"content": "</s>", title: 1}
    for fields in (
        {"added_tokens_decoder": {"1": end}},
        {"additional_special_tokens": [end]},
        {"extra_special_tokens": {"end": end}},
        {"extra_special_tokens": [end]},
        {"eos_token": end},
    ):
        with contextlib.suppress(BundleFormatError):
            check_files(tokenizer_config(**fields))
    out, err = capfd.readouterr()
    assert "canary" not in out + err
