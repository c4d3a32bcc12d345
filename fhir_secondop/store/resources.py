"""read, version, history, create, update, delete; each write puts its index rows in place in the same transaction."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Conflict, Forbidden, Gone, Invalid, NotFound, PreconditionFailed
from fhir_secondop.fhir import codec, times
from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import BLIND, EVERYTHING, RECORD, REPORT, Resource, Visibility
from fhir_secondop.store import index, tables
from fhir_secondop.store.conditions import matching
from fhir_secondop.store.database import Change, Transaction
from fhir_secondop.store.narrowing import is_few
from fhir_secondop.store.prepared import Prepared, inserting

# Whose rows are the record of a case: what was pulled from an EHR, and what somebody sent by an upload link.
SOURCE = "source:"
UPLOAD = "upload:"
IN_RECORD = sa.or_(tables.resource.c.owner.startswith(SOURCE), tables.resource.c.owner.startswith(UPLOAD))
# What rows of a case may belong to beside the case itself ("case#draft"); what each is for says `service.context`.
ZONES = ("draft", "quarantine", "urgent", "preliminary")
FEW_CASES = 5000
_AT_ONCE = 300  # pairs in one statement
FETCHED = 25  # rows that PostgreSQL sends at once, where they may be large
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class Stored(NamedTuple):
    """One version of a resource, as it stands in the store. `updated` is in ms since 1970.

    A tuple, and in the order of `_COLUMNS`: a page has hundreds, and of each row one is made. `kept` and `cut` are its
    body. `is_cut`: this reader sees only a part of it now.
    """

    rid: int
    type: str
    id: str
    owner: str
    case_id: str | None
    version: int
    updated: int
    deleted: bool
    kept: str
    cut: int
    client_meta: str
    is_cut: bool = False

    @property
    def body(self) -> Body:
        """The resource's text without id and meta, and where they go back in."""
        return Body(self.kept, self.cut)

    @property
    def meta(self) -> Resource:
        """The resource's meta: the sender's, with our versionId and lastUpdated."""
        return {
            **codec.trusted(self.client_meta),
            "versionId": str(self.version),
            "lastUpdated": times.instant(self.updated),
        }

    @property
    def text(self) -> str:
        """The resource as JSON text, spliced and not parsed again."""
        kept, cut = self.kept, self.cut
        meta = "{" if self.client_meta == "{}" else f"{self.client_meta[:-1]},"
        return (
            f'{kept[:cut]},"id":"{self.id}","meta":{meta}"versionId":"{self.version}",'
            f'"lastUpdated":"{times.instant(self.updated)}"}}{kept[cut:]}'
        )

    @property
    def bytes(self) -> int:
        """About how many bytes its text has."""
        return len(self.kept) if self.kept.isascii() else len(self.kept.encode())

    @property
    def resource(self) -> Resource:
        """The resource, parsed."""
        return codec.trusted(self.text)

    @property
    def etag(self) -> str:
        """The weak ETag of this version; of a part of it another one, for the whole may be seen later."""
        return f'W/"{self.version}-part"' if self.is_cut else f'W/"{self.version}"'

    @property
    def versioned(self) -> str:
        """ "Type/id/_history/n"."""
        return f"{self.type}/{self.id}/_history/{self.version}"


def is_id(text: str) -> bool:
    """Whether this is a FHIR id at all: letters, digits, - and ., at most 64."""
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    """A new logical id."""
    return str(uuid.uuid4())


_COLUMNS = (
    tables.resource.c.rid,
    tables.resource.c.type,
    tables.resource.c.id,
    tables.resource.c.owner,
    tables.resource.c.case_id,
    tables.version.c.version,
    tables.version.c.updated,
    tables.version.c.deleted,
    tables.version.c.body,
    tables.version.c.cut,
    tables.version.c.meta,
)
CURRENT = sa.and_(tables.version.c.rid == tables.resource.c.rid, tables.version.c.version == tables.resource.c.version)


def rows(visibility: Visibility = EVERYTHING) -> sa.Select[Any]:
    """Current versions, to be narrowed by conditions on `tables.resource`."""
    return _columns(visibility).select_from(tables.resource.join(tables.version, CURRENT))


def _columns(visibility: Visibility) -> sa.Select[Any]:
    if visibility.everything:
        return sa.select(*_COLUMNS)
    return sa.select(*_COLUMNS, _is_blind(visibility).label("blind"))


_FIND = Prepared(
    rows().where(tables.resource.c.type == sa.bindparam("type"), tables.resource.c.id == sa.bindparam("id"))
)
_CASE = Prepared(
    sa.select(tables.resource.c.case_id).where(
        tables.resource.c.type == sa.bindparam("type"), tables.resource.c.id == sa.bindparam("id")
    )
)


def case_of(connection: Connection, resource_type: str, resource_id: str) -> str | None:
    """The case that a resource belongs to; None also where there is no such resource. For the domain's own use."""
    found = _CASE.first(connection, type=resource_type, id=resource_id)
    return None if found is None else found[0]


def stored(row: Any, visibility: Visibility = EVERYTHING) -> Stored:
    """The Stored of a row of `rows(visibility)`, as who sees it may read it."""
    if visibility.everything:
        return Stored(*row)
    found = Stored(*row[:-1])
    return _cut(found, visibility) if row[-1] else found


def taken(found: Iterable[Any], visibility: Visibility, most_bytes: int) -> tuple[list[Stored], bool]:
    """What rows of `rows(visibility)` hold, until that has so many bytes, but one at least; and whether it is cut.

    No more is held at once than that, if rows come as they are asked for.
    """
    kept: list[Stored] = []
    size = 0
    for row in found:
        each = stored(row, visibility)
        size += each.bytes
        if kept and size > most_bytes:
            return kept, True
        kept.append(each)
    return kept, False


def _taken(
    connection: Connection, query: sa.Select[Any], visibility: Visibility, most_bytes: int
) -> tuple[list[Stored], bool]:
    if connection.dialect.name == "postgresql":  # whose client takes all of them at once, unless it is told
        query = query.execution_options(yield_per=FETCHED)
    with connection.execute(query) as result:
        return taken(result, visibility, most_bytes)


def _cut(whole: Stored, visibility: Visibility) -> Stored:
    resource = whole.resource
    shown = visibility.cut(resource)
    if shown is resource:
        return whole
    body = codec.compose(shown)
    return whole._replace(kept=body.text, cut=body.cut, client_meta=client_meta(shown), is_cut=True)


def visible(visibility: Visibility) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` for what may be seen."""
    narrowed = [
        sa.or_(tables.resource.c.type != kind, *(matching(kind, text) for text in texts))
        for kind, texts in visibility.narrowed
    ]
    if visibility.everything:
        return sa.and_(sa.true(), *narrowed)
    # What belongs to a case is seen by its audience alone, whoever wrote it: a reviewer who left sees nothing of it.
    own = sa.and_(tables.resource.c.owner == visibility.owner, tables.resource.c.case_id.is_(None))
    theirs = sa.or_(
        own,
        tables.resource.c.case_id.in_(_cases(visibility, RECORD)),
        sa.and_(tables.resource.c.case_id.in_(_cases(visibility, REPORT)), sa.not_(IN_RECORD)),
    )
    return sa.and_(theirs, sa.not_(hidden(visibility)), *narrowed)


def hidden(visibility: Visibility) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` for what is withheld from a blind reader."""
    return sa.false() if visibility.everything else tables.resource.c.rid.in_(withheld(visibility))


def withheld(visibility: Visibility) -> sa.Select[Any]:
    """The `rid` of what is withheld from a blind reader."""
    row = tables.withheld.c
    return sa.select(row.rid).where(row.case_id.in_(_cases(visibility, BLIND)))


def admitted(visibility: Visibility) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` for what belongs to a case, or a zone of one, that is seen in full."""
    if visibility.everything:
        return sa.true()
    return sa.func.coalesce(tables.resource.c.case_id.in_(_cases(visibility, RECORD)), sa.false())


def found_by(visibility: Visibility, resource_type: str, code: str) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` for what may be found by that parameter."""
    if visibility.everything or (resource_type, code) not in visibility.unsearchable:
        return sa.true()
    return sa.not_(_is_blind(visibility))


def _is_blind(visibility: Visibility) -> ColumnElement[bool]:
    blind = tables.resource.c.case_id.in_(_cases(visibility, BLIND))
    return sa.func.coalesce(blind, sa.false())  # what belongs to no case


def is_blind(connection: Connection, visibility: Visibility, case_id: str) -> bool:
    """Whether the first opinion of that case is withheld from this reader now."""
    if visibility.everything:
        return False
    cases = _cases(visibility, BLIND).where(tables.audience.c.case_id == case_id)
    return connection.execute(cases.limit(1)).first() is not None


def _with_zones(case_id: str) -> list[str]:
    """Named each: what begins alike SQLite does not find by an index."""
    return [case_id, *(f"{case_id}#{zone}" for zone in ZONES)]


def withhold(tx: Transaction, case_id: str, references: Iterable[str]) -> None:
    """Says anew which resources ("Type/id") of a case and its zones ("case#…") a blind reader does not see."""
    wanted = sorted(set(references))
    resource = tables.resource.c
    tx.connection.execute(sa.delete(tables.withheld).where(tables.withheld.c.case_id == case_id))
    for start in range(0, len(wanted), _AT_ONCE):
        pairs = [tuple(one.split("/", 1)) for one in wanted[start : start + _AT_ONCE]]
        named = sa.select(resource.rid, sa.literal(case_id)).where(
            resource.case_id.in_(_with_zones(case_id)),
            sa.tuple_(resource.type, resource.id).in_(pairs),
        )
        tx.connection.execute(sa.insert(tables.withheld).from_select(["rid", "case_id"], named))


def own_cases(visibility: Visibility) -> sa.Select[Any]:
    """The ids of the cases in whose audience a caller stands who does not see everything, whichever part."""
    return _cases(visibility, RECORD, REPORT)


def has_few_cases(connection: Connection, visibility: Visibility) -> bool:
    """Whether it is best to begin with the caller's own cases: else what is looked for is found soon among any."""
    if visibility.everything:
        return False
    some = own_cases(visibility).limit(FEW_CASES + 1).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one() <= FEW_CASES


def _cases(visibility: Visibility, *parts: str) -> sa.Select[Any]:
    """The cases in whose audience the caller stands for one of these parts, at that time."""
    audience = tables.audience.c
    return sa.select(audience.case_id).where(
        audience.party.in_(list(visibility.parties)),
        audience.part.in_(parts),
        sa.or_(audience.until.is_(None), audience.until > visibility.at_ms),
    )


def sees_record(connection: Connection, visibility: Visibility, case_id: str) -> bool:
    """Whether the gathered record of that case may be seen, too."""
    if visibility.everything:
        return True
    cases = _cases(visibility, RECORD).where(tables.audience.c.case_id == case_id)
    return connection.execute(cases.limit(1)).first() is not None


def find(connection: Connection, visibility: Visibility, resource_type: str, resource_id: str) -> Stored | None:
    """The current version, deleted ones included; None when there is none that may be seen."""
    if not is_id(resource_id):
        return None
    if visibility.everything and not visibility.narrowed:
        found = _FIND.first(connection, type=resource_type, id=resource_id)
        return Stored(*found) if found is not None else None
    wanted = (tables.resource.c.type == resource_type, tables.resource.c.id == resource_id, visible(visibility))
    row = connection.execute(rows(visibility).where(*wanted)).one_or_none()
    return stored(row, visibility) if row is not None else None


def read(connection: Connection, visibility: Visibility, resource_type: str, resource_id: str) -> Stored:
    """The current version. Raises NotFound, or Gone when it was deleted."""
    found = find(connection, visibility, resource_type, resource_id)
    if found is None and not is_id(resource_id):
        raise NotFound(f"There is no such {resource_type}: that is not a FHIR id.")
    if found is None:
        raise NotFound(f"There is no {resource_type}/{resource_id}.")
    if found.deleted:
        raise Gone(f"{resource_type}/{resource_id} was deleted; its versions are in _history.")
    return found


def history(
    connection: Connection, visibility: Visibility, resource_type: str, resource_id: str, *, version: int | None = None
) -> list[Stored]:
    """The versions of a resource, newest first; only the given one with `version`. Raises NotFound."""
    if not is_id(resource_id):
        raise NotFound(f"There is no such {resource_type}: that is not a FHIR id.")
    query = (
        _columns(visibility)
        .select_from(tables.resource.join(tables.version, tables.version.c.rid == tables.resource.c.rid))
        .where(tables.resource.c.type == resource_type, tables.resource.c.id == resource_id, visible(visibility))
        .order_by(tables.version.c.version.desc())
    )
    if version is not None:
        query = query.where(tables.version.c.version == version)
    found = [stored(row, visibility) for row in connection.execute(query)]
    if not found:
        raise NotFound(f"There is no {resource_type}/{resource_id}" + (f", version {version}." if version else "."))
    return found


def history_page(
    connection: Connection,
    visibility: Visibility,
    resource_type: str,
    resource_id: str,
    count: int,
    *,
    before: int | None = None,
    since_ms: int | None = None,
    most_bytes: int,
) -> tuple[list[Stored], bool]:
    """At most so many versions of a resource, newest first: those below a version, and not before a time; and whether
    they are cut at so many bytes.
    """
    version = tables.version.c
    query = (
        _columns(visibility)
        .select_from(tables.resource.join(tables.version, version.rid == tables.resource.c.rid))
        .where(tables.resource.c.type == resource_type, tables.resource.c.id == resource_id, visible(visibility))
        .order_by(version.version.desc())
        .limit(count)
    )
    if before is not None:
        query = query.where(version.version < before)
    if since_ms is not None:
        query = query.where(version.updated >= since_ms)
    return _taken(connection, query, visibility, most_bytes)


def history_of_types(
    connection: Connection,
    visibility: Visibility,
    types: Sequence[str],
    count: int,
    *,
    before_ms: int | None = None,
    since_ms: int | None = None,
    most_bytes: int,
) -> tuple[list[Stored], bool]:
    """At most so many versions of resources of these types, newest first: those written before, and not before; and
    whether they are cut at so many bytes.
    """
    updated = tables.version.c.updated
    query = (
        _columns(visibility)
        .select_from(tables.resource.join(tables.version, tables.version.c.rid == tables.resource.c.rid))
        .where(tables.resource.c.type.in_(types), visible(visibility))
        .order_by(updated.desc())
        .limit(count)
    )
    if len(types) == 1 and is_few(connection, types[0]):
        # Else SQLite goes through the versions of all types, newest first.
        query = query.with_hint(tables.resource, "INDEXED BY ix_resource_created", "sqlite")
    if before_ms is not None:
        query = query.where(updated < before_ms)
    if since_ms is not None:
        query = query.where(updated >= since_ms)
    return _taken(connection, query, visibility, most_bytes)


def in_case(connection: Connection, case_id: str, types: Iterable[str] = ()) -> list[Stored]:
    """Every current resource of a case, oldest first, of these types or of all. For the domain's own use."""
    query = rows().where(tables.resource.c.case_id == case_id, tables.resource.c.deleted.is_(False))
    wanted = list(types)
    if wanted:
        query = query.where(tables.resource.c.type.in_(wanted))
    return [stored(row) for row in connection.execute(query.order_by(tables.resource.c.rid))]


def versions_of_case(connection: Connection, case_id: str, types: Iterable[str]) -> Iterator[Stored]:
    """Every version of what a case and its zones hold of these types, but for the record, in the order in which they
    were written. For the domain's own use.
    """
    resource = tables.resource.c
    query = (
        sa.select(*_COLUMNS)
        .select_from(tables.resource.join(tables.version, tables.version.c.rid == resource.rid))
        .where(
            resource.case_id.in_(_with_zones(case_id)),
            resource.type.in_(list(types)),
            sa.not_(IN_RECORD),
        )
        .order_by(tables.version.c.updated)
    )
    return (Stored(*row) for row in connection.execute(query))


_INSERT = inserting(tables.resource, tables.resource.c.rid)
INSERT_VERSION = inserting(tables.version)
_ADVANCE = Prepared(
    sa.update(tables.resource)
    .where(tables.resource.c.rid == sa.bindparam("row"), tables.resource.c.version == sa.bindparam("was"))
    .values(version=sa.bindparam("to"), updated=sa.bindparam("at"), deleted=sa.bindparam("gone"))
)


def create(
    tx: Transaction,
    body: Body,
    resource: Resource,
    *,
    base_url: str,
    resource_id: str | None = None,
    case_id: str | None = None,
    owner: str | None = None,
) -> Stored:
    """Stores a new resource under a new id, or under the one given. Raises Conflict when that id is taken."""
    is_new = resource_id is None
    resource_id = resource_id or new_id()
    if not is_id(resource_id):
        raise Invalid(f"{resource_id!r} is not a FHIR id (letters, digits, - and ., at most 64).", path="id")
    updated = tx.tick()
    values = {
        "type": resource["resourceType"], "id": resource_id, "version": 1, "updated": updated, "deleted": False,
        "owner": owner or tx.caller.id, "case_id": case_id,
    }  # fmt: skip
    if not is_new and _CASE.first(tx.connection, type=values["type"], id=resource_id) is not None:
        raise Conflict(f"{values['type']}/{resource_id} is there already.")
    inserted = _INSERT.first(tx.connection, **values)
    assert inserted is not None
    (rid,) = inserted
    return _write_version(tx, "create", rid, values, body, resource, base_url)


def client_meta(resource: Resource) -> str:
    """The sender's meta as JSON text, without what is ours to say."""
    if "meta" not in resource:
        return "{}"
    return codec.dumps({k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")})


def update(
    tx: Transaction, before: Stored, body: Body, resource: Resource, *, base_url: str, if_match: int | None = None
) -> Stored:
    """Stores the next version of `before`. Raises PreconditionFailed when it is no longer version `if_match`."""
    if resource["resourceType"] != before.type:
        raise Invalid(f"The body is a {resource['resourceType']}, the address a {before.type}.", path="resourceType")
    expect(before, if_match)
    values = {
        "type": before.type, "id": before.id, "version": before.version + 1, "updated": tx.tick(), "deleted": False,
        "owner": before.owner, "case_id": before.case_id,
    }  # fmt: skip
    _advance(tx, before, values)
    index.remove(tx.connection, before.rid)
    return _write_version(tx, "update", before.rid, values, body, resource, base_url, before)


def delete(tx: Transaction, before: Stored, *, if_match: int | None = None) -> Stored:
    """Marks a resource as deleted; its versions stay."""
    expect(before, if_match)
    values: dict[str, Any] = {
        "type": before.type, "id": before.id, "version": before.version + 1, "updated": tx.tick(), "deleted": True,
        "owner": before.owner, "case_id": before.case_id,
    }  # fmt: skip
    _advance(tx, before, values)
    index.remove(tx.connection, before.rid)
    INSERT_VERSION.run(
        tx.connection, rid=before.rid, version=values["version"], updated=values["updated"], deleted=True,
        body=before.body.text, cut=before.body.cut, meta=before.client_meta, by=tx.caller.id,
    )  # fmt: skip
    tx.changes.append(Change("delete", before.type, before.id, before.version + 1, before.case_id))
    return before._replace(version=values["version"], updated=values["updated"], deleted=True, is_cut=False)


def move(tx: Transaction, stored_: Stored, case_id: str) -> None:
    """Makes a resource part of another case, or of another zone of it; its versions go along."""
    where = sa.update(tables.resource).where(tables.resource.c.rid == stored_.rid)
    tx.connection.execute(where.values(case_id=case_id))


def move_all(tx: Transaction, zone: str, case_id: str) -> None:
    """Makes everything of a zone part of the case, also what was deleted there: written again it is the case's."""
    tx.connection.execute(sa.update(tables.resource).where(tables.resource.c.case_id == zone).values(case_id=case_id))


def adopt(tx: Transaction, stored_: Stored, case_id: str) -> None:
    """Makes a resource that belongs to no case part of one; its versions stay as they are."""
    tx.connection.execute(
        sa.update(tables.resource)
        .where(tables.resource.c.rid == stored_.rid, tables.resource.c.case_id.is_(None))
        .values(case_id=case_id)
    )
    for place, change in enumerate(tx.changes):
        if (change.type, change.id) == (stored_.type, stored_.id):
            tx.changes[place] = replace(change, case_id=case_id)


def expect(before: Stored, if_match: int | None) -> None:
    """Raises PreconditionFailed when that is not the version wanted."""
    if if_match is not None and if_match != before.version:
        raise PreconditionFailed(
            f"{before.type}/{before.id} is at version {before.version}, not {if_match}; read it again."
        )


def expect_whole(before: Stored, path: str = "") -> None:
    """Raises Forbidden when who writes sees only a part of what is there: the rest would be lost."""
    if before.is_cut:
        said = f"You see a part of {before.type}/{before.id} only now, and can't write the whole of it."
        raise Forbidden(said, path=path)


def _advance(tx: Transaction, before: Stored, values: dict[str, Any]) -> None:
    changed = _ADVANCE.run(
        tx.connection, row=before.rid, was=before.version,
        to=values["version"], at=values["updated"], gone=values["deleted"],
    )  # fmt: skip
    if changed != 1:
        raise PreconditionFailed(f"{before.type}/{before.id} changed since version {before.version}; read it again.")


def _write_version(
    tx: Transaction, interaction: str, rid: int, values: dict[str, Any], body: Body, resource: Resource, base_url: str,
    before: Stored | None = None,
) -> Stored:  # fmt: skip
    result = Stored(rid, **values, kept=body.text, cut=body.cut, client_meta=client_meta(resource))
    INSERT_VERSION.run(
        tx.connection, rid=rid, version=result.version, updated=result.updated, deleted=False,
        body=body.text, cut=body.cut, meta=result.client_meta, by=tx.caller.id,
    )  # fmt: skip
    written = {**resource, "id": result.id}
    index.write_many(tx.connection, [(rid, written)], base_url)
    tx.changes.append(
        Change(interaction, result.type, result.id, result.version, result.case_id, written, result, before)
    )
    return result
