"""`proper-coordinator release`: sign what a run made for real devices, and say which is the newest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands import options as o
from coordinator.commands.document import gives
from coordinator.consents import read_consents
from coordinator.publish import open_to_readers
from coordinator.republication import RELEASE_DAYS, republish, sign_latest_again
from proper_model.bundle.signed_time import (
    LATEST_DAYS,
    MAX_LATEST_DAYS,
    MAX_RELEASE_DAYS,
    format_time,
)

app = typer.Typer(help="Publish releases to devices.")


@app.command()
@gives("release publish")
def publish(
    source: Annotated[
        Path,
        typer.Argument(metavar="FROM", help="A bundle or release folder, for example a run's."),
    ],
    folder: o.Folder,
    key: o.Keys,
    latest_key: Annotated[
        list[Path] | None,
        typer.Option("--latest-key", help="For latest.json; the release keys when not given."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=MAX_RELEASE_DAYS, help="Installable for so long.")
    ] = RELEASE_DAYS,
    latest_days: Annotated[
        int, typer.Option("--latest-days", min=1, max=MAX_LATEST_DAYS, help="As for sign-latest.")
    ] = LATEST_DAYS,
    consents: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Refuse a release that has data of somebody who withdrew since it was trained.",
        ),
    ] = None,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Copy a release into FOLDER as its next version, signed by the keys that FOLDER's root lists."""
    keys = o.load_keys(key, passphrase_file)
    published = republish(
        source,
        folder,
        keys,
        o.load_keys(latest_key, passphrase_file) if latest_key else keys,
        now=o.now(),
        days=days,
        latest_days=latest_days,
        consents=None if consents is None else read_consents(consents),
    )
    open_to_readers(folder)
    o.tell(f"release {published.version} ({published.bundle_id[:16]}) in {published.path}")
    return {
        "release_version": published.version,
        "bundle_id": published.bundle_id,
        "folder": str(published.path),
    }


@app.command("sign-latest")
@gives("release sign-latest")
def sign_latest(
    folder: o.Folder,
    key: o.Keys,
    days: Annotated[
        int,
        typer.Option("--days", min=1, max=MAX_LATEST_DAYS, help="Devices believe it for so long."),
    ] = LATEST_DAYS,
    version: Annotated[
        int | None,
        typer.Option(
            "--version", min=1, help="The newest, where latest.json is lost or its keys changed."
        ),
    ] = None,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Say again which release is the newest; to be repeated before the last one is out of date."""
    keys = o.load_keys(key, passphrase_file)
    latest = sign_latest_again(folder, keys, now=o.now(), days=days, version=version)
    open_to_readers(folder)
    expires = format_time(latest.expires)
    o.tell(f"release {latest.version} is the newest until {expires}")
    return {
        "release_version": latest.version,
        "bundle_id": latest.bundle_id,
        "expires": expires,
    }
