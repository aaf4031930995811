"""What each command of `proper-coordinator` prints with `--json`, as types: docs/json-schema.json is made of them."""

from __future__ import annotations

from pydantic import Field

from proper_model.json_output.schema import Document, Documents, Part


class Role(Part):
    threshold: int = Field(description="how many of the keys must sign")
    keys: list[str] = Field(description="their ids")


class Root(Part):
    version: int
    channel: str
    expires: str | None = Field(description="null: never, in format 1")
    fingerprint: str = Field(description="for two people to compare")
    roles: dict[str, Role]


class KeyMade(Document):
    key_id: str
    file: str = Field(description="to be kept")
    public_file: str = Field(description="to be handed on")
    encrypted: bool


class KeyShow(Document):
    key_id: str


class RootMade(Document):
    folder: str
    root: Root
    made: list[str] = Field(description="files of the root keys of --make")


class RootShow(Document):
    root: Root
    waiting: Root | None = Field(description="the next root, where it lacks signatures")


class RootNext(Document):
    root: Root = Field(description="the next root, which is the folder's when it is done")
    done: bool = Field(description="enough keys have signed")
    missing_current: int = Field(description="of the present root's keys that must sign")
    missing_next: int = Field(description="of the next root's")


class Published(Document):
    release_version: int
    bundle_id: str
    folder: str = Field(description="what devices install from")


class LatestSigned(Document):
    release_version: int
    bundle_id: str
    expires: str


class Recorded(Document):
    recorded: int = Field(description="new consents")
    already: int = Field(description="people who had the same before")
    wider: int = Field(description="people with a wider consent, which still stands")


class Earlier(Part):
    at: str
    people: int


class Training(Part):
    signed: str
    release: str | None = Field(description="its name, where it has one")
    content: str = Field(description="SHA-256 of the release's files")
    run: str = Field(description="the folder that it was trained in")


class Remains(Part):
    phases: list[str] = Field(description="folders made of people's data")
    texts: list[str] = Field(description="files with people's texts")
    missing: list[str] = Field(description="recorded folders that are not there")
    silent: list[str] = Field(description="phases that do not say whose data they have")


class Withdrawn(Document):
    withdrawn: int = Field(description="people who now agree to nothing, and did before")
    earlier: list[Earlier] = Field(description="people who had withdrawn before")
    trainings: list[Training] = Field(description="releases that have data of these people")
    remains: Remains = Field(description="what is still there of them")


class Consent(Part):
    id: str
    given: str
    withdrawn: str | None
    releases: list[str] = Field(description="for which releases; none: for every one")
    trained: int = Field(description="in how many releases the person is")


class Consents(Document):
    consents: list[Consent]


class Erased(Document):
    deleted: list[str] = Field(description="folders and files; an error's document has them too")
    missing: list[str] = Field(description="recorded folders that are not there")
    silent: list[str] = Field(description="phases that do not say whose data they have")
    trainings: list[Training] = Field(description="releases that have data of who withdrew")


DOCUMENTS: Documents = {
    "keys make-release": (KeyMade,),
    "keys make-holder": (KeyMade,),
    "keys show": (KeyShow,),
    "keys make-root": (RootMade,),
    "root show": (RootShow,),
    "root rotate": (RootNext,),
    "root revoke": (RootNext,),
    "root sign": (RootNext,),
    "release publish": (Published,),
    "release sign-latest": (LatestSigned,),
    "consent record": (Recorded,),
    "consent withdraw": (Withdrawn,),
    "consent list": (Consents,),
    "consent erase": (Erased,),
}
