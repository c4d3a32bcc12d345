"""The tables. A change here comes with a migration in store/migrations (a test compares them)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.base import ReadOnlyColumnCollection

metadata = sa.MetaData()
Columns = ReadOnlyColumnCollection[str, sa.Column[Any]]

# SQLite numbers rows by itself only in an INTEGER primary key.
_RowId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
# Ranges over text must mean code points on both databases, whatever the locale of the PostgreSQL cluster.
_Ordered = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

resource = sa.Table(
    "resource",
    metadata,
    sa.Column("rid", _RowId, primary_key=True, autoincrement=True),  # creation number; never changes
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),  # ms since 1970, UTC
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("case_id", sa.String(64), nullable=True),
    sa.UniqueConstraint("type", "id", name="uq_resource_type_id"),
    sa.Index("ix_resource_case", "case_id", "type"),
    # The order of every search. In SQLite the row's number stands at the end of each index anyway; a second time, rows
    # would have to be sorted.
    # A migration that makes it anew must say again how many a type has (0022): that goes with the index.
    sa.Index("ix_resource_created", "type", "deleted", info={"only": "sqlite"}),
    sa.Index("ix_resource_created_rid", "type", "deleted", "rid", info={"only": "postgresql"}),
)

version = sa.Table(
    "version",
    metadata,
    sa.Column("rid", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("updated", sa.BigInteger, nullable=False, unique=True),  # the same commit never gives two the same
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # without id and meta
    sa.Column("cut", sa.Integer, nullable=False),
    sa.Column("meta", sa.Text, nullable=False),  # the sender's meta but for versionId and lastUpdated
    sa.Column("by", sa.String(128), nullable=False),
)


# How a version came about, where that is not what its number says (POST the first, PUT the others): few have a row.
version_method = sa.Table(
    "version_method",
    metadata,
    sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("method", sa.String(8), nullable=False),
)


def _place() -> sa.Column[int]:
    """Of a part of a composite: in which element it stands. Else 0."""
    return sa.Column("place", sa.Integer, nullable=False, server_default="0")


token = sa.Table(
    "ix_token",
    metadata,
    sa.Column("rid", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("param", sa.String(64), nullable=False),
    sa.Column("system", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    _place(),
    sa.Index("ix_token_code", "type", "param", "code", "system"),
    sa.Index("ix_token_rid", "rid"),
)

string = sa.Table(
    "ix_string",
    metadata,
    sa.Column("rid", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("param", sa.String(64), nullable=False),
    sa.Column("folded", _Ordered, nullable=False),
    sa.Column("exact", sa.Text, nullable=False),
    _place(),
    sa.Index("ix_string_folded", "type", "param", "folded"),
    sa.Index("ix_string_rid", "rid"),
)

date = sa.Table(
    "ix_date",
    metadata,
    sa.Column("rid", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("param", sa.String(64), nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),  # half-open, ms since 1970
    sa.Column("high", sa.BigInteger, nullable=False),
    _place(),
    sa.Index("ix_date_low", "type", "param", "low", "high"),
    sa.Index("ix_date_high", "type", "param", "high"),
    sa.Index("ix_date_rid", "rid"),
)

reference = sa.Table(
    "ix_reference",
    metadata,
    sa.Column("rid", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("param", sa.String(64), nullable=False),
    sa.Column("target", sa.Text, nullable=False),  # "Type/id" or an absolute URL
    _place(),
    sa.Index("ix_reference_target", "target", "type", "param"),
    sa.Index("ix_reference_rid", "rid"),
)

number = sa.Table(
    "ix_number",
    metadata,
    sa.Column("rid", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("param", sa.String(64), nullable=False),
    sa.Column("low", _Ordered, nullable=False),  # store/search_numbers.sortable
    sa.Column("high", _Ordered, nullable=False),
    sa.Column("system", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    _place(),
    sa.Index("ix_number_low", "type", "param", "low"),
    sa.Index("ix_number_rid", "rid"),
)

uri = sa.Table(
    "ix_uri",
    metadata,
    sa.Column("rid", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("param", sa.String(64), nullable=False),
    sa.Column("uri", _Ordered, nullable=False),
    _place(),
    sa.Index("ix_uri_uri", "type", "param", "uri"),
    sa.Index("ix_uri_rid", "rid"),
)

INDEXES = (token, string, date, reference, number, uri)

# By which search parameters the rows above were made, and how far making them anew has come: row 1 of R4's, one more
# for each of ours (store/pending).
index_state = sa.Table(
    "index_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(80), nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),  # the rid up to which the rows are of `fingerprint`
    sa.Column("complete", sa.Boolean, nullable=False),
)

# What a sorted search found, for its further pages. Times in ms since 1970.
search_list = sa.Table(
    "search_list",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("asked", sa.String(64), nullable=False),  # SHA-256 of who asked, and what
    sa.Column("rids", sa.Text, nullable=False),  # JSON
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Index("ix_search_list_expires", "expires"),
)

# One row. Writers lock it first, so commits are in one order and `updated` rises strictly with it (decision 8).
clock = sa.Table("clock", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", sa.BigInteger))

# What was opened under which key: a repeat is answered from here, in the transaction that would have opened it.
intake = sa.Table(
    "intake",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("case_id", sa.String(64), nullable=False),
)

# Who may see a case: "system|value" of a Caller's parties, or a caller's id.
audience = sa.Table(
    "audience",
    metadata,
    sa.Column("case_id", sa.String(64), nullable=False),
    sa.Column("party", sa.Text, nullable=False),
    sa.Column("part", sa.String(16), nullable=False),  # of the case: model.RECORD or model.REPORT
    sa.Column("until", sa.BigInteger, nullable=True),  # ms since 1970, exclusive
    sa.PrimaryKeyConstraint("case_id", "party", "part", name="pk_audience"),
    sa.Index("ix_audience_party", "party"),
)

# What a blind reader of its case does not see until the first read is locked.
withheld = sa.Table(
    "withheld",
    metadata,
    sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("case_id", sa.String(64), nullable=False),
    sa.Index("ix_withheld_case", "case_id"),
)

# What a gathering under way has finished, by part (a type, a file): a worker that takes it up asks for the rest only.
gathered_part = sa.Table(
    "gathered_part",
    metadata,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("part", sa.String(300), primary_key=True),
    sa.Column("said", sa.Text, nullable=False),  # JSON
)

# How much each EHR was asked, over all workers: when the next request may go, and the documents of that day (UTC).
ehr_limit = sa.Table(
    "ehr_limit",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("next_ms", sa.BigInteger, nullable=False),
    sa.Column("day", sa.BigInteger, nullable=False),
    sa.Column("documents", sa.Integer, nullable=False),
)

# Who works on this database, a row for each start (store/executors). Times in ms since 1970, by the worker's own clock.
executor = sa.Table(
    "executor",
    metadata,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("name", sa.String(96), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),  # of the workflows that it runs
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # working, draining, gone
    sa.Column("beats", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.BigInteger, nullable=False),
)

# What one of all workers does regularly, and when it is due again (store/turns). In ms since 1970.
round_ = sa.Table(
    "round",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("due", sa.BigInteger, nullable=False),
)

# How far something regular has come, where it goes through what was written in the order in which it was.
reached = sa.Table(
    "reached",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),  # `updated` of the last version that it has looked at
)

# An index of the Tasks that go to or come from an EHR (store/ledger). Times in ms since 1970.
ehr_work = sa.Table(
    "ehr_work",
    metadata,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("case_id", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("authored", sa.BigInteger, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_ehr_work_state", "state", "authored", "task_id"),
    sa.Index("ix_ehr_work_place", "place", "state", "done"),
    sa.Index("ix_ehr_work_case", "case_id"),
)

# An index of the cases: where each stands, and what in it needs a person (store/case_states).
case_state = sa.Table(
    "case_state",
    metadata,
    sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),  # of its ServiceRequest
    sa.Column("case_id", sa.String(64), nullable=False, unique=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
)
# In the order of the list.
sa.Index("ix_case_state_ended", case_state.c.ended, case_state.c.rid.desc())
sa.Index("ix_case_state_stage", case_state.c.stage, case_state.c.ended, case_state.c.rid.desc())
case_need = sa.Table(
    "case_need",
    metadata,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Index("ix_case_need_rid", "rid"),
)

# Whether each EHR is asked now, over all workers (store/circuits). Times in ms since 1970, 0: none.
circuit = sa.Table(
    "ehr_circuit",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),  # attempts in a row in which it gave no answer
    sa.Column("trips", sa.Integer, nullable=False),  # 0: closed
    sa.Column("opened", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("why", sa.String(32), nullable=False),
    sa.Column("probe", sa.String(128), nullable=False),
    sa.Column("probe_until", sa.BigInteger, nullable=False),
    sa.Column("paused", sa.BigInteger, nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("paused_why", sa.Text, nullable=False),
)

# Access tokens of systems that signed in, by SHA-256. Times in ms since 1970.
access_token = sa.Table(
    "access_token",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("client", sa.String(128), nullable=False),
    sa.Column("registration", sa.String(64), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("issued", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Index("ix_access_token_expires", "expires"),
)

# Assertions that were used, by SHA-256 of client and jti: none is good twice, at whatever worker.
used_assertion = sa.Table(
    "used_assertion",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Index("ix_used_assertion_until", "until"),
)

# Who is signed in, in which browser. The cookie's bits are not here, only their hash.
session = sa.Table(
    "session",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # SHA-256 of the cookie, hex
    sa.Column("person", sa.String(128), nullable=False),  # an id of the people file, or an invitation's Task
    sa.Column("way", sa.String(16), nullable=False),  # oidc, demo, link
    sa.Column("proof", sa.Text, nullable=False),  # what was proved: "issuer|sub", an email address
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("auth_time", sa.BigInteger, nullable=False),  # seconds since 1970; 0: not said
    sa.Column("started", sa.BigInteger, nullable=False),  # ms since 1970
    sa.Column("seen", sa.BigInteger, nullable=False),  # ms since 1970, to the minute
    sa.Index("ix_session_person", "person"),
)

# How often something was tried since when: sign-ins by account and address, and each state of a sign-in once.
attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),  # SHA-256, hex
    sa.Column("since", sa.BigInteger, nullable=False),  # ms since 1970
    sa.Column("tries", sa.Integer, nullable=False),
)

# Who did and who saw what, in chains of rows; see store/audit. Nothing updates or deletes a row.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("chain", sa.String(16), primary_key=True),
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3 … without a hole
    sa.Column("at", sa.BigInteger, nullable=False),  # ms since 1970
    sa.Column("kind", sa.String(8), nullable=False),  # write, audience, access, refused
    sa.Column("caller", sa.Text, nullable=False),  # "" where nobody was signed in
    sa.Column("behalf", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),  # of v3-ActReason
    sa.Column("action", sa.String(1), nullable=False),  # C, R, U, D, E
    sa.Column("operation", sa.String(64), nullable=False),  # a FHIR interaction, or "$accept"
    sa.Column("method", sa.String(16), nullable=False),
    sa.Column("route", sa.Text, nullable=False),  # the rule, never the address
    sa.Column("params", sa.Text, nullable=False),  # names, never values
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("case_id", sa.String(64), nullable=True),
    sa.Column("number", sa.Integer, nullable=False),  # of resources disclosed or written
    sa.Column("status", sa.Integer, nullable=True),  # of the answer; none of a write
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    # Of kind audience alone, as in the audience's own row; part "draft" is that of the opinion that is being written.
    sa.Column("party", sa.Text, nullable=True),
    sa.Column("part", sa.String(16), nullable=True),
    sa.Column("until", sa.BigInteger, nullable=True),
    sa.Index("ix_audit_case", "case_id", "at"),
    sa.Index("ix_audit_at", "at"),
    sqlite_with_rowid=False,
)

audit_anchor = sa.Table(
    "audit_anchor",
    metadata,
    sa.Column("chain", sa.String(16), primary_key=True),
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("heads", sa.Text, nullable=False),  # JSON, [[chain, n, digest], …]
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Index("ix_audit_anchor_at", "at"),
    sqlite_with_rowid=False,
)

# What happened in each case, 1, 2, 3 … without a hole: rows of the transaction that they tell of. They cite the version
# that says it and hold nothing of it. Nothing updates or deletes a row.
case_event = sa.Table(
    "case_event",
    metadata,
    sa.Column("case_id", sa.String(64), primary_key=True),
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # ms since 1970: `lastUpdated` of that version
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

# The number of each case's last event. A case without a row was there before events were: its past has no numbers yet.
case_counter = sa.Table(
    "case_counter",
    metadata,
    sa.Column("case_id", sa.String(64), primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What stood, or stands, beyond a bound: a row from the first sight to its end. Nothing of any patient is in it.
alert = sa.Table(
    "alert",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),  # a connection's name; "": all of them
    sa.Column("seen", sa.BigInteger, nullable=False),  # ms since 1970, like the following
    sa.Column("began", sa.BigInteger, nullable=True),  # once it had stood for the hold-down
    sa.Column("gone", sa.BigInteger, nullable=True),  # since when it is no more, within the hold-down
    sa.Column("ended", sa.BigInteger, nullable=False),  # 0: it stands; one of a kind and subject does
    sa.Column("value", sa.BigInteger, nullable=False),  # deliveries, or minutes
    sa.Column("bound", sa.BigInteger, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),  # how many levels of people were told
    sa.Column("told", sa.BigInteger, nullable=True),  # when the last of them was
    sa.Column("acknowledged", sa.BigInteger, nullable=True),
    sa.Column("acknowledged_by", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "subject", "ended", name="uq_alert_standing"),
    sa.Index("ix_alert_ended", "ended"),
)

# What somebody is told of an alert: committed with its cause, sent afterwards, and kept as evidence.
alert_message = sa.Table(
    "alert_message",
    metadata,
    sa.Column("n", _RowId, primary_key=True, autoincrement=True),  # in this order
    sa.Column("id", sa.String(64), nullable=False, unique=True),  # the receiver's: a message sent again keeps it
    sa.Column("alert", sa.String(36), nullable=False),
    sa.Column("channel", sa.Text, nullable=False),  # "email:somebody@…", "webhook:name"
    sa.Column("body", sa.Text, nullable=False),  # JSON, as it is sent
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # waiting, sent, given-up
    sa.Column("next", sa.BigInteger, nullable=False),  # not before; a lease while it is being sent
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("sent", sa.BigInteger, nullable=True),
    sa.Column("why", sa.Text, nullable=False),  # it failed, the last time
    sa.Index("ix_alert_message_state", "state", "next"),
    sa.Index("ix_alert_message_alert", "alert"),
)
