"""`proper-sim privacy`: what is told about people by what leaves a device, or is released."""

from __future__ import annotations

import typer

from client.terminal.document import gives
from simulations.privacy.backdoor.command import backdoor
from simulations.privacy.deletion.command import deletion
from simulations.privacy.egress.command import egress
from simulations.privacy.epsilon.command import epsilon
from simulations.privacy.inversion.command import inversion
from simulations.privacy.linkage.command import linkage
from simulations.privacy.membership.command import membership
from simulations.privacy.memorization.command import canaries
from simulations.privacy.poisoning.command import poisoning
from simulations.privacy.results.all_attacks import report
from simulations.privacy.results.command import table

app = typer.Typer(name="privacy", no_args_is_help=True)


@app.callback()
def privacy() -> None:
    """What a release, an adapter or a device tells about people."""


for command in (
    *(membership, canaries, linkage, inversion, epsilon),
    *(deletion, poisoning, backdoor, egress, table, report),
):
    app.command()(gives(f"privacy {command.__name__}")(command))
