"""The Flower adapter of a node: five message handlers around `client.node.cohort_host`.

Thin on purpose. Each handler reads a request, lets the host act, and answers with what
`client.node.egress` lets pass. Nothing is raised to Flower, because Flower sends exception texts to the
server; `context.state` is never written, because Flower keeps it outside the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.node.cohort_host import CohortHost
from client.node.egress import outgoing
from client.node.failures import status_of
from client.node.host_work import Engine
from proper_model.errors import EgressError, ProtocolError
from proper_model.federation.protocol import (
    CONFIG,
    NO_BUNDLE,
    PROTOCOL_VERSION,
    FileTable,
    Kind,
    Status,
    check_request,
    hashes,
)
from proper_model.federation.run_plan import RunPlan, find_plan

app = ClientApp()

Fields = Mapping[str, object]
Act = Callable[[CohortHost, str, Fields], "Status | list[str]"]


@app.query("have")
def have(message: Message, context: Context) -> Message:
    """Which of the named pieces does this node lack? The answer repeats their hashes."""
    return _answer(
        Kind.HAVE, message, context, lambda host, _, fields: host.missing(hashes(fields, "pieces"))
    )


@app.query("store")
def store(message: Message, context: Context) -> Message:
    """Keep the pieces that came with this message."""

    def act(host: CohortHost, _: str, fields: Fields) -> Status:
        shas, data = hashes(fields, "pieces"), fields["data"]
        if not isinstance(data, Sequence) or len(data) != len(shas):
            raise ProtocolError("store request: one piece of data for each hash expected")
        host.store(shas, cast("Sequence[bytes]", data))
        return Status.OK

    return _answer(Kind.STORE, message, context, act)


@app.query("install")
def install(message: Message, context: Context) -> Message:
    """Put the pieces together, verify the bundle, install it."""

    def act(host: CohortHost, bundle_id: str, fields: Fields) -> Status:
        host.install(bundle_id, FileTable.from_fields(fields))
        return Status.OK

    return _answer(Kind.INSTALL, message, context, act)


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """The private round: stage 3 on every device of this node. Only a status leaves."""
    return _answer(
        Kind.PERSONALIZE, message, context, lambda host, bundle_id, _: host.personalize(bundle_id)
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Predictions on every device of this node; they stay there. Only a status leaves."""
    return _answer(
        Kind.EVALUATE, message, context, lambda host, bundle_id, _: host.evaluate(bundle_id)
    )


def _answer(kind: Kind, message: Message, context: Context, act: Act) -> Message:
    """Run `act` and build the reply; every exception but an exit becomes a fixed code."""
    asked_bundle: str | None = None
    asked_pieces: tuple[str, ...] = ()
    missing: list[str] = []
    host: CohortHost | None = None
    try:
        host = _host(context)
        fields = _fields(message)
        asked_bundle = check_request(kind, fields)
        if kind is Kind.HAVE:
            asked_pieces = hashes(fields, "pieces")
        result = act(host, asked_bundle, fields)
        status = result if isinstance(result, Status) else Status.OK
        missing = [] if isinstance(result, Status) else result
    except (KeyboardInterrupt, SystemExit) as leaving:
        # An exit is honoured, but without the text it may carry.
        raise type(leaving) from None
    except BaseException as error:  # noqa: BLE001 - the boundary: no exception may travel
        status = status_of(error, kind)
        if host is not None:
            host.note_failure(kind.value, error)
    reply: dict[str, Any] = {
        "status": status.value,
        "protocol": PROTOCOL_VERSION,
        "bundle_id": NO_BUNDLE if asked_bundle is None else asked_bundle,
    }
    if kind is Kind.HAVE:
        reply["missing"] = missing
    try:
        checked = outgoing(
            kind, {CONFIG: reply}, asked_bundle=asked_bundle, asked_pieces=asked_pieces
        )
    except EgressError as error:
        if host is not None:
            host.note_failure(kind.value, error)
        refused = {"status": Status.EGRESS.value, "protocol": PROTOCOL_VERSION}
        empty: dict[str, Any] = {"missing": []} if kind is Kind.HAVE else {}
        checked = outgoing(kind, {CONFIG: {**refused, "bundle_id": NO_BUNDLE, **empty}})
    content = RecordDict({CONFIG: ConfigRecord(cast("Any", checked[CONFIG]))})
    return Message(content, reply_to=message)


def _fields(message: Message) -> Fields:
    if list(message.content) != [CONFIG] or not isinstance(message.content[CONFIG], ConfigRecord):
        raise ProtocolError(f"request: expected exactly one record, '{CONFIG}'")
    return cast("Fields", message.content[CONFIG])


def _host(context: Context) -> CohortHost:
    plan = RunPlan.load(find_plan(context.run_config.get("plan")))
    return CohortHost(
        plan=plan,
        partition=int(context.node_config["partition-id"]),
        partitions=int(context.node_config["num-partitions"]),
        engine=Engine(plan.node_threads, plan.base, plan.node_memory_bytes),
    )
