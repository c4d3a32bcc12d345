"""Cases in every state, people in every relation to them, and a mark in everything that is stored.

`Stage.sees` is the small model: who sees which zone, written down by hand and by nothing of the program.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient

from fhir_secondop.fhir import codec
from fhir_secondop.model import REPORT, Resource
from fhir_secondop.service import audience
from fhir_secondop.service import tokens as link_tokens
from fhir_secondop.service.context import DIRECTORY, SERVICE, quarantine
from fhir_secondop.store import resources, tables
from fhir_secondop.store.resources import Stored
from tests.service.test_review import example
from tests.service.world import DAY_MS, EXAMPLES, World, record_of
from tests.web.pages.visitors import Visitors, app_with_pages

Plain = dict[str, Any]
NPI = "http://hl7.org/fhir/sid/us-npi"
MARK = "urn:example:zone"

# token → roles, scopes, its NPI
CALLERS: dict[str, tuple[list[str], list[str], str]] = {
    "desk": (["coordinator"], ["system/*.crus"], ""),
    "desk-reader": (["coordinator"], ["system/*.rs"], ""),  # a program that coordinates by reading alone
    "clinic": (["requester"], ["system/*.crus"], ""),
    "clinic2": (["requester"], ["system/*.crus"], ""),
    "reviewer": (["reviewer"], ["user/*.rus"], "9000000190"),
    "reviewer2": (["reviewer"], ["user/*.rus"], "9000002190"),
    "declined": (["reviewer"], ["user/*.rus"], "9000000191"),
    "withdrawn": (["reviewer"], ["user/*.rus"], "9000000192"),
    "not-selected": (["reviewer"], ["user/*.rus"], "9000000193"),
    "long-ago": (["reviewer"], ["user/*.rus"], "9000000194"),
    "pcp": (["provider"], ["user/*.rus"], "9000000111"),
    "surgeon": (["provider"], ["user/*.rus"], "9000000112"),
    "pcp2": (["provider"], ["user/*.rus"], "9000002111"),
    "surgeon2": (["provider"], ["user/*.rus"], "9000002112"),
    "patient": (["patient"], ["user/*.rs", "user/ServiceRequest.u"], ""),  # invited to alpha
    "stranger": (["provider"], ["user/*.crus"], "9000009999"),
    "stranger-reviewer": (["reviewer"], ["user/*.crus"], "9000009998"),
    # The surgeon again, by other tokens: what it may do is narrower.
    "only-tasks": (["provider"], ["user/Task.rs"], "9000000112"),
    # The primary care physician, by a token that is for laboratory results alone.
    "only-laboratory": (["provider"], ["user/Observation.rs?category=laboratory"], "9000000111"),
    "without-scope": (["provider"], [], "9000000112"),
    "operator": (["operator"], ["user/*.crus"], "9000000112"),
    "auditor": (["auditor"], ["user/*.crus"], "9000000112"),
}
NOBODY = "nobody"  # no token at all

# zone → who sees it. What is not listed sees nothing.
SEES: dict[str, set[str]] = {
    "alpha": {
        "desk", "desk-reader", "clinic", "reviewer", "pcp", "surgeon", "patient", "only-tasks", "only-laboratory"
    },
    # The primary care physician is who asked.
    "alpha.record": {"desk", "desk-reader", "clinic", "reviewer", "pcp", "only-laboratory"},
    "alpha.draft": {"desk", "desk-reader", "reviewer"},
    # What was seen and is not signed yet is for clinicians; never for the patient.
    "alpha.urgent": {"desk", "desk-reader", "clinic", "reviewer", "pcp", "surgeon", "only-tasks", "only-laboratory"},
    "alpha.quarantine": {"desk", "desk-reader"},
    "beta": {"desk", "desk-reader", "clinic2", "reviewer2", "pcp2", "surgeon2"},
    "beta.record": {"desk", "desk-reader", "clinic2", "reviewer2", "pcp2"},
    "beta.draft": {"desk", "desk-reader", "reviewer2"},
    "beta.quarantine": {"desk", "desk-reader"},
    "directory": {"desk", "desk-reader"},
    "loose.service": {"desk", "desk-reader"},  # the organization that we are
    "loose.clinic": {"desk", "desk-reader", "clinic"},
    "loose.clinic2": {"desk", "desk-reader", "clinic2"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A stored resource, its zone, and its versions, newest first."""

    zone: str
    stored: Stored
    versions: tuple[int, ...]

    @property
    def local(self) -> str:
        return f"{self.stored.type}/{self.stored.id}"


@dataclass
class Stage:
    """What was built. `words` are plain words that stand in one zone alone, in whatever form it is shown."""

    world: World
    cases: dict[str, str] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @cached_property
    def pages(self) -> FlaskClient:
        """A browser; its cookie says who is there."""
        known = {who: self.world.caller(who) for who in CALLERS}
        return app_with_pages(self.world.service, Visitors(known)).test_client(use_cookies=False)

    def sees(self, who: str, zone: str, kind: str = "") -> bool:
        """Whether the model lets them see a resource of that type in that zone."""
        narrow = {"only-tasks": "Task", "only-laboratory": "Observation"}
        if who in narrow and kind not in ("", narrow[who]):
            return False
        return who in SEES[zone]

    def sees_it(self, who: str, held: Held) -> bool:
        """Whether the model lets them see that resource."""
        laboratory = who != "only-laboratory" or '"laboratory"' in held.stored.body.text
        return laboratory and self.sees(who, held.zone, held.stored.type)


def tokens() -> str:
    """The token file of the callers."""
    blocks = []
    for who, (roles, scopes, npi) in CALLERS.items():
        parties = [f"{NPI}|{npi}"] if npi else []
        blocks.append(f'[callers.{who}]\ntoken = "{who}"\nroles = {json.dumps(roles)}\nscopes = {json.dumps(scopes)}\n'
                      f"parties = {json.dumps(parties)}\n")  # fmt: skip
    return "\n".join(blocks)


def _request(digit: str, family: str, word: str) -> Plain:
    """The example's request with people of its own."""
    text = json.dumps(example("request.json")).replace("900000011", f"900000{digit}11")
    asked: Plain = json.loads(text.replace("Sampleton", family))
    asked["placer"]["value"] = f"order-{word}"
    asked["questions"] = [f"Is {word} right?"]
    return asked


def _reviewer(npi: str) -> Plain:
    return {**example("review.json")["reviewer"], "npi": npi, "family": f"Reader{npi[-4:]}"}


def _draft(word: str, gaps: list[str]) -> Plain:
    draft: Plain = {**example("review.json")["draft"], "gapsConfirmed": gaps, "conclusion": f"It is {word}."}
    draft["answers"] = draft["answers"][:1]
    return draft


def build(world: World) -> Stage:
    """The cases alpha (record, signed, an amendment in draft) and beta (in review), and what stands around them."""
    stage = Stage(world)
    (world.folder / "tokens.toml").write_text(tokens())
    record = record_of("lakeside")
    record.append({
        "resourceType": "AllergyIntolerance", "id": "zq-1", "patient": {"reference": _patient(record)},
        "clinicalStatus": {"coding": [{"code": "active",
                           "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"}]},
        "code": {"text": "zqrecordalpha"},
    })  # fmt: skip
    world.ehr("lakeside", record=record)
    world.start()
    stage.words = {"alpha": "zqownalpha", "beta": "zqownbeta", "alpha.record": "zqrecordalpha",
                   "alpha.draft": "zqdraftalpha", "beta.draft": "zqdraftbeta", "alpha.quarantine": "zqtwinalpha",
                   "alpha.urgent": "zqurgentalpha",
                   "directory": "zqdirectory",
                   "loose.clinic": "zqlooseone", "loose.clinic2": "zqloosetwo"}  # fmt: skip
    alpha = _alpha(world)
    beta = _beta(world)
    stage.cases = {"alpha": alpha, "beta": beta}
    for who in ("clinic", "clinic2"):
        body = {"resourceType": "Observation", "status": "final", "code": {"text": stage.words[f"loose.{who}"]}}
        assert world.call("POST", "/fhir/Observation", body, who).status_code == 201
    with world.context.database.transaction(SERVICE) as tx:
        twin = {"resourceType": "Patient", "name": [{"family": "zqtwinalpha"}]}
        resources.create(tx, codec.compose(twin), twin, base_url="", case_id=quarantine(alpha))
    text = (EXAMPLES / "directory.json").read_text("utf-8").replace("Harbourview", "zqdirectory Harbourview")
    assert world.call("POST", "/fhir/$load-directory", json.loads(text)).status_code == 200
    _plant(stage)
    made = {"/ack/{}": (link_tokens.ACKNOWLEDGE, "deliver-report"), "/upload/{}": (link_tokens.UPLOAD, "data-request")}
    for path, (purpose, code) in made.items():
        task = next(h for h in stage.held if h.zone == "alpha" and f'"{code}' in h.stored.body.text)
        stage.links[path] = link_tokens.make(world.context, purpose, task.stored.id)
    return stage


def _patient(record: list[Resource]) -> str:
    return next(f"Patient/{r['id']}" for r in record if r["resourceType"] == "Patient")


def _alpha(world: World) -> str:
    asked = _request("0", "Sampleton", "zqownalpha")
    answer = world.call("POST", "/api/second-opinions", asked, "clinic")
    assert answer.status_code == 201, answer.get_data(as_text=True)
    alpha: str = answer.get_json()["id"]
    world.work()
    for npi, who in (
        ("9000000191", "declined"),
        ("9000000192", "withdrawn"),
        ("9000000193", "not-selected"),
        ("9000000190", "reviewer"),
    ):
        world.post(alpha, "ask-reviewer", {"reviewer": _reviewer(npi)}, "desk")
        if who == "declined":
            world.post(alpha, "decline", {"reason": "no-capacity"}, who)
        if who == "withdrawn":
            world.post(alpha, "accept", {"declaration": {"interests": "none"}}, who)
            world.post(alpha, "withdraw", {"reason": "no-capacity"}, who)
    world.post(alpha, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    for n in (1, 2):  # one was spoken about, one is open
        world.post(alpha, "raise-urgent", {"finding": f"zqurgentalpha {n}"}, "reviewer")
        if n == 1:
            world.post(alpha, "record-call", {"with": "x", "readBack": "zqurgentalpha is understood"}, "surgeon")
    gaps = world.get(alpha, "completeness")["gaps"]
    world.post(alpha, "submit-report", _draft("a first opinion", gaps), "reviewer")
    world.post(alpha, "sign", {}, "reviewer")
    world.work()
    changes = {"conclusion": "It is zqdraftalpha."}
    world.post(alpha, "amend-report", {"kind": "amended", "reason": "A dose was wrong.", "changes": changes},
               "reviewer")  # fmt: skip
    with world.context.database.transaction(SERVICE) as tx:
        row = {"case_id": alpha, "party": f"{NPI}|9000000194", "part": "record", "until": world.clock() - DAY_MS}
        tx.connection.execute(sa.insert(tables.audience).values(row))
        audience.admit(tx, alpha, {"patient"}, part=REPORT)
    return alpha


def _beta(world: World) -> str:
    asked = {**_request("2", "Betaville", "zqownbeta"), "sources": []}
    for identifier in asked["patient"]["identifier"]:
        identifier["value"] += "-B"
    answer = world.call("POST", "/api/second-opinions", asked, "clinic2")
    assert answer.status_code == 201, answer.get_data(as_text=True)
    beta: str = answer.get_json()["id"]
    world.work()
    world.post(beta, "ask-reviewer", {"reviewer": _reviewer("9000002190")}, "desk")
    world.post(beta, "accept", {"declaration": {"interests": "none"}}, "reviewer2")
    gaps = world.get(beta, "completeness")["gaps"]
    world.post(beta, "submit-report", _draft("zqdraftbeta", gaps), "reviewer2")
    return beta


def zone_of(case_names: dict[str, str], owner: str, case_id: str | None) -> str:
    """The zone of a stored resource, by the columns that it stands under."""
    if case_id is None:
        return f"loose.{owner}"
    if case_id == DIRECTORY:
        return "directory"
    base, _, part = case_id.partition("#")
    name = case_names[base]
    if part:
        return f"{name}.{part}"
    return f"{name}.record" if owner.startswith(("source:", "upload:")) else name


def _plant(stage: Stage) -> None:
    """Puts its zone into the meta of every stored version."""
    names = {case_id: name for name, case_id in stage.cases.items()}
    with stage.world.context.database.transaction(SERVICE) as tx:
        connection = tx.connection
        for row in connection.execute(sa.select(tables.resource)).all():
            if row.deleted:
                continue
            zone = zone_of(names, row.owner, row.case_id)
            for version in connection.execute(sa.select(tables.version).where(tables.version.c.rid == row.rid)).all():
                meta = json.loads(version.meta)
                meta["tag"] = [*meta.get("tag", []), {"system": MARK, "code": f"zone-{zone}-end"}]
                connection.execute(
                    sa.update(tables.version)
                    .where(tables.version.c.rid == row.rid, tables.version.c.version == version.version)
                    .values(meta=json.dumps(meta, separators=(",", ":")))
                )
    with stage.world.context.database.reading() as connection:
        for row in connection.execute(resources.rows().where(tables.resource.c.deleted.is_(False))):
            stored = resources.stored(row)
            zone = zone_of(names, stored.owner, stored.case_id)
            kept = sa.select(tables.version.c.version).where(
                tables.version.c.rid == stored.rid, tables.version.c.deleted.is_(False)
            )
            numbers = connection.execute(kept.order_by(tables.version.c.version.desc())).scalars()
            stage.held.append(Held(zone, stored, tuple(numbers)))
