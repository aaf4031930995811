"""`proper serve`: the personal model on this machine's own loopback address."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from client.commands import options as o
from client.person.workspace import Memory
from client.terminal.console import print_line, progress_bars, say
from client.terminal.document import print_document
from proper_model.tasks import parse_depth

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="A token of your own that stays, 0600; made if it is not there. While this is not "
        "running, whoever takes the port gets it from your clients. (default: a new one each time)",
    ),
]


def serve(
    context: typer.Context,
    task: o.StoredTask = None,
    port: Port = 8765,
    token_file: TokenFile = None,
    retrieve: o.Retrieve = None,
    max_memory: o.MaxMemory = None,
    as_json: o.AsJson = False,
) -> None:
    """Answer on this machine as OpenAI's completions do, and show a small page.

    Every request needs the token; the page's address, printed on stdout, carries it. Nothing proves
    to a client who answers at a port: while this is not running, any user of this machine can take
    the port and is then sent the token and the prompts of clients that keep asking. A token that is
    new at each start is worth nothing to them; with --token-file and a fixed port, end your clients
    first, and make a new file where that may have happened.
    """
    from client.serving.person_session import ServedPerson
    from client.serving.server import serve as run
    from client.serving.tokens import new_token, page_address, token_of_file

    depth = None if retrieve is None else parse_depth(retrieve)
    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory))
    token = new_token() if token_file is None else token_of_file(token_file)
    vault = workspace.open() if workspace.has_vault else None
    with progress_bars() as show:
        show("loading the model", 0, 0)
        session = ServedPerson(workspace, vault, task, memory, retrieve=depth)

    def ready(url: str) -> None:
        page = page_address(url, token)
        if as_json:
            print_document("serve", {"page": page, "api": f"{url}/v1", "token": token})
        else:
            print_line(page)
        sys.stdout.flush()  # whoever reads it from a pipe or file waits for it
        say(f"completions at {url}/v1; the token is the part after the # of the page's address")
        say("Ctrl-C ends it")

    run(session, port=port, token=token, ready=ready)
