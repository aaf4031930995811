"""A run's own keys and root: made once, found again, also those of runs prepared before roles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from bundle_samples import sample_files

from client.releases.install import install
from coordinator.keys import create_key, load_key
from coordinator.publish import publish
from coordinator.run_keys import make_run_root, signing_keys, trusted_root
from proper_model.bundle.public_keys import public_bytes
from proper_model.bundle.trusted_root import Role, TrustedRoot
from proper_model.errors import ConfigError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def plan_of(server, public):
    return SimpleNamespace(server_folder=server, root_public_key=public)


def test_a_run_has_one_root_for_its_life(tmp_path):
    first = make_run_root(tmp_path, now=NOW)
    again = make_run_root(tmp_path, now=NOW + timedelta(days=9))
    assert again == first
    plan = plan_of(tmp_path, first.public_key)
    assert trusted_root(plan) == first.root
    (key,) = signing_keys(plan)
    assert first.root.roles["release"] == first.root.roles["latest"] == Role.of([key])
    root_key = load_key(tmp_path / "keys" / "root.pem")
    assert first.root.roles["root"] == Role.of([root_key])
    assert first.public_key == public_bytes(root_key).hex()


def test_a_run_prepared_before_roles_goes_on_with_its_one_key(tmp_path):
    key = create_key(tmp_path / "keys" / "release.pem")
    made = make_run_root(tmp_path, now=NOW)
    assert made.root == TrustedRoot.of([key])
    assert not (tmp_path / "root.json").exists()
    plan = plan_of(tmp_path, public_bytes(key).hex())
    assert trusted_root(plan) == made.root
    published = publish(
        sample_files(), tmp_path / "release", signing_keys(plan), created=NOW, valid_for_days=9
    )
    bundle = install(tmp_path / "host", published.path, made.root, now=NOW).bundle
    assert bundle.version == 1


@pytest.mark.parametrize("left", ["root.pem", "both"])
def test_killed_between_two_keys_it_does_not_look_like_an_old_run(tmp_path, left):
    create_key(tmp_path / "keys" / "root.pem")
    if left == "both":
        create_key(tmp_path / "keys" / "release.pem")
    assert make_run_root(tmp_path, now=NOW).root.format == 2


def test_a_release_key_that_is_gone_or_another_one_is_told(tmp_path):
    made = make_run_root(tmp_path, now=NOW)
    plan = plan_of(tmp_path, made.public_key)
    (tmp_path / "keys" / "release.pem").unlink()
    with pytest.raises(ConfigError, match="none of its 0 keys"):
        signing_keys(plan)
    create_key(tmp_path / "keys" / "release.pem")
    with pytest.raises(ConfigError, match="none of its 1 keys"):
        signing_keys(plan)
    with pytest.raises(ConfigError, match="none of its"):
        signing_keys(plan_of(tmp_path, "00" * 32))
