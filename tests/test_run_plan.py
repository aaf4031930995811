"""The run plan: strict on reading, the same for every way of running it."""

from __future__ import annotations

import json

import pytest
from federation import make_federation

from proper_model.errors import ConfigError
from proper_model.federation.run_plan import RunPlan, find_plan


@pytest.fixture
def plan(tmp_path):
    return make_federation(tmp_path / "out", devices=5, users_per_node=2, base=False)


def test_a_plan_reads_back_as_it_was_written(plan):
    path = plan.out / "plan.json"
    assert RunPlan.load(path) == plan
    assert path.stat().st_mode & 0o777 == 0o600
    assert RunPlan.load(path).stage_settings.group.epochs == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("seed", -1, "seed"),
        ("seed", 2**32, "seed"),
        ("seed", "secret text", "seed"),
        ("server_threads", 100000, "server_threads"),
        ("node_threads", 1025, "node_threads"),
        ("arms", ["stage9"], "arms"),
        ("arms", [], "arms"),
        ("unknown", 1, "unknown"),
        ("out", "relative/path", "out"),
        ("schema_version", 2, "schema_version"),
        ("schema_version", True, "schema_version"),
        ("schema_version", "1", "schema_version"),
        ("preset", "fancy", "fancy"),
        ("settings", {"name": "x", "groups": {}}, "groups"),
        ("root_public_key", "short", "root_public_key"),
        ("devices", [], "devices"),
        ("devices", [{"device_id": "../x", "folder": "/tmp"}], "device_id"),
    ],
)
def test_what_is_wrong_is_named_with_its_field(plan, field, value, says):
    path = plan.out / "plan.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, field: value}))
    with pytest.raises(ConfigError, match=says) as caught:
        RunPlan.load(path)
    assert "secret text" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_file_that_is_no_plan_is_refused(plan, content):
    (plan.out / "plan.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan\.json"):
        RunPlan.load(plan.out / "plan.json")


def test_without_a_plan_the_hint_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.delenv("PROPER_PLAN", raising=False)
    with pytest.raises(ConfigError) as caught:
        find_plan("")
    assert "proper-sim prepare" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunPlan.load(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="absolute"):
        find_plan("runs/plan.json")
    monkeypatch.setenv("PROPER_PLAN", "/from/environment.json")
    assert str(find_plan("")) == "/from/environment.json"
    assert str(find_plan("/from/config.json")) == "/from/config.json"


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 9])
def test_every_device_is_hosted_exactly_once(plan, partitions):
    hosted = [
        entry.device_id for k in range(partitions) for entry in plan.devices_of(k, partitions)
    ]
    assert hosted == [entry.device_id for entry in plan.devices]
    assert plan.node_count == 3


def test_states_are_fitted_only_where_an_arm_needs_them(plan):
    def states(*arms):
        return plan.model_copy(update={"arms": arms}).state_arms

    assert states("stage1", "stage2-mean") == ()
    assert states("stage2") == ("stage2",)
    assert states("stage2", "stage3") == ("stage3",)
    assert states("stage2", "stage3-shuffled", "oppu-mlp") == ("oppu-mlp", "stage3")
    assert plan.model_copy(update={"arms": ("stage3", "stage3-shuffled")}).node_arms == ("stage3",)


def test_fingerprint_follows_what_matters(plan):
    first = plan.fingerprint()
    assert plan.model_copy(update={"users_per_node": 1, "actors": 2}).fingerprint() == first
    assert plan.model_copy(update={"seed": 1}).fingerprint() != first
    assert plan.model_copy(update={"arms": ("stage1",)}).fingerprint() != first
    other = plan.devices[0].model_copy(update={"user_sha256": "00" * 32})
    assert plan.model_copy(update={"devices": (other, *plan.devices[1:])}).fingerprint() != first
    plan.pooled_file.write_text("[]")
    assert plan.fingerprint() != first
