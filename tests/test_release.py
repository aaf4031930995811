"""Publishing: versions only grow, a folder appears whole, and a second start changes nothing."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from bundle_samples import (
    CREATED,
    KEY,
    NOW,
    ROOT,
    SECOND_KEY,
    base_files,
    load_files,
    referring_files,
    sample_files,
    write_files,
)
from stops import StoppedError, stopped_at_every_sync

from client.releases.bases import verify_base_files
from client.releases.install import install
from coordinator.publish import latest, publish
from proper_model.base.reference import reference_base
from proper_model.errors import BundleForeignError, BundleFormatError, ConfigError
from proper_model.storage.durable import locked

OTHER = sample_files(seed=1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "release"


def release(folder, files=None, keys=(KEY,), created=CREATED, days=30, **options):
    return publish(
        files or sample_files(), folder, keys, created=created, valid_for_days=days, **options
    )


def snapshot(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_is_published_can_be_installed(folder, tmp_path):
    published = release(folder)
    bundle = install(tmp_path / "host", published.path, ROOT, now=NOW).bundle
    assert (bundle.bundle_id, bundle.version) == (published.bundle_id, published.version)
    assert load_files(bundle) == sample_files()
    assert latest(folder) == published
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "latest.json", "v00000001"]


def test_the_same_content_again_is_the_same_release(folder):
    first = release(folder)
    before = snapshot(folder)
    assert release(folder, created=CREATED + timedelta(days=3)) == first
    assert snapshot(folder) == before


def test_versions_grow_also_back_to_earlier_content(folder):
    versions = [release(folder, files).version for files in (None, OTHER, None, None)]
    assert versions == [1, 2, 3, 3]
    assert latest(folder).version == 3


@pytest.mark.parametrize(
    "options",
    [
        {"created": CREATED + timedelta(days=30)},
        {"keys": (SECOND_KEY,)},
        {"keys": (KEY, SECOND_KEY)},
        {"channel": "films"},
        {"renew": True},
    ],
    ids=["expired", "other key", "one more key", "channel", "renew"],
)
def test_same_files_under_other_circumstances_are_a_new_version(folder, options):
    release(folder)
    assert release(folder, **options).version == 2


def test_a_damaged_newest_release_is_replaced(folder):
    first = release(folder)
    (first.path / "task.toml").write_bytes(b"x")
    assert release(folder).version == 2


def test_a_removed_release_does_not_free_its_version(folder):
    release(folder)
    second = release(folder, OTHER)
    for path in sorted(second.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    second.path.rmdir()
    assert release(folder).version == 3


def test_refused_content_leaves_no_trace(folder):
    first = release(folder)
    with pytest.raises(BundleFormatError):
        release(folder, sample_files((12, 9)))
    assert latest(folder) == first
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "latest.json", "v00000001"]


def test_stopped_at_any_sync_the_next_call_ends_in_the_same_state(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    expected, step = release(whole, OTHER), 0

    def begin(step):
        return lambda: release(tmp_path / f"stop{step}", OTHER)

    for step, stop in stopped_at_every_sync(monkeypatch, begin):
        folder = tmp_path / f"stop{step}"
        assert isinstance(stop, StoppedError)
        assert release(folder, OTHER).bundle_id == expected.bundle_id
        assert snapshot(folder) == snapshot(whole)
    assert step >= len(OTHER)


def test_one_publisher_at_a_time(folder):
    release(folder)
    with (
        locked(folder / ".lock", timeout_s=0),
        pytest.raises(ConfigError, match="another process"),
    ):
        release(folder, OTHER, lock_timeout_s=0)
    assert release(folder, OTHER).version == 2


def test_settings_out_of_range(folder):
    with pytest.raises(ConfigError, match="valid_for_days 0"):
        release(folder, days=0)
    with pytest.raises(ConfigError, match="time zone"):
        release(folder, created=CREATED.replace(tzinfo=None))


def test_nothing_published_yet(tmp_path):
    assert latest(tmp_path) is None


def test_damaged_record_is_an_error_not_version_one(folder):
    release(folder)
    for content in (b"", b"{}", b'{"bundle_id":1,"version":"1"}', b"[]", b"{}" * 5000):
        (folder / "latest.json").write_bytes(content)
        with pytest.raises(BundleFormatError):
            release(folder, OTHER)


# --- a base model that is not shipped --------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    folder = write_files(tmp_path / "base", base_files())
    (folder / "README.md").write_bytes(b"words")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


def test_reference_lists_what_a_device_loads(base):
    reference = reference_base(base, "some/base", "abc")
    assert set(reference.files) == {"model.safetensors", "config.json"}
    assert reference.files["config.json"] == hashlib.sha256(base_files()["config.json"]).hexdigest()
    verify_base_files(reference, base)


def test_reference_survives_publication(base, folder, tmp_path):
    reference = reference_base(base, "some/base", "abc")
    files = referring_files("some/base", "abc")
    published = release(folder, files, base=reference)
    assert release(folder, files, base=reference) == published
    bundle = install(tmp_path / "host", published.path, ROOT, now=NOW).bundle
    assert bundle.manifest.base_reference == reference
    other = {**reference.files, "model.safetensors": "0" * 64}
    changed = type(reference)(reference.hub_id, reference.revision, other)
    assert release(folder, files, base=changed).version == 2


def test_another_base_is_refused(base):
    reference = reference_base(base, "some/base", "abc")
    original = (base / "config.json").read_bytes()
    (base / "config.json").write_bytes(b"{ }")
    with pytest.raises(BundleForeignError, match=r"config\.json is not the file"):
        verify_base_files(reference, base)
    (base / "config.json").unlink()
    with pytest.raises(BundleForeignError, match=r"config\.json: No such file"):
        verify_base_files(reference, base)
    (base / "config.json").write_bytes(original)
    (base / "generation_config.json").write_bytes(b"{}")
    with pytest.raises(BundleForeignError, match="1 more model files"):
        verify_base_files(reference, base)


def test_linked_base_files_count_by_content(base, tmp_path):
    """Hub caches are folders of links."""
    reference = reference_base(base, "some/base", "abc")
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for name in reference.files:
        (cache / name).symlink_to(base / name)
    verify_base_files(reference, cache)


def test_pickled_base_is_not_supported(base):
    (base / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no safetensors"):
        reference_base(base, "some/base", "abc")
