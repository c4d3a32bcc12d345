"""The patient's link: it takes a code that came by another way, shows one case, and ends when it is called back."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from fhir_secondop.model import EVERYTHING
from fhir_secondop.service import intake, invitations, tokens
from fhir_secondop.store import resources, tables
from tests.web.conftest import Site, Start

EXAMPLE = json.loads((files("fhir_secondop.examples") / "breast-treatment-plan" / "request.json").read_text("utf-8"))


@dataclass
class Invited:
    """A case with an invitation: what the coordinator was answered."""

    site: Site
    case: str
    link: str
    code: str
    task: str

    @property
    def path(self) -> str:
        return self.link.removeprefix("http://127.0.0.1:8100")

    def enter(self, browser: FlaskClient, code: str | None = None) -> Any:
        return browser.post(self.path, data={"code": self.code if code is None else code})

    def wrong(self) -> str:
        return f"{(int(self.code) + 1) % 10**8:08d}"

    def held(self) -> dict[str, Any]:
        with self.site.service.context.database.reading() as connection:
            return resources.read(connection, EVERYTHING, "Task", self.task).resource


def call(site: Site, path: str, body: Any, who: str = "desk") -> Any:
    return site.browser().post(f"/api/second-opinions{path}", json=body, headers={"Authorization": f"Bearer {who}"})


def open_case(site: Site, number: str) -> str:
    placer = {**EXAMPLE["placer"], "value": number}
    answer = call(site, "", {**EXAMPLE, "placer": placer})
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["id"])


def invite(site: Site, case: str, relationship: str = "self", name: str = "Maya Sample", who: str = "desk") -> Invited:
    answer = call(site, f"/{case}/invite-patient", {"relationship": relationship, "name": name}, who)
    assert answer.status_code == 201, answer.text
    said = answer.get_json()
    return Invited(site, case, said["link"], said["code"], said["task"])


@pytest.fixture
def site(start: Start) -> Site:
    return start()


@pytest.fixture
def invited(site: Site) -> Invited:
    return invite(site, open_case(site, "case-link-1"))


def caller(invited: Invited) -> Any:
    found = invitations.caller_of(invited.site.service.context, invited.task, "")
    assert found is not None
    return found


def test_link_and_code_together_open_that_case_for_the_patient(invited: Invited) -> None:
    browser = invited.site.browser()
    page = browser.get(invited.path)
    assert page.status_code == 200
    assert "Sample" not in page.text  # nothing of the patient before the code
    answer = invited.enter(browser, f" {invited.code[:4]} {invited.code[4:]} ")
    assert (answer.status_code, answer.location) == (303, "/")
    who = browser.get("/who").get_json()
    assert (who["roles"], who["name"], who["behalf"], who["scopes"]) == (["patient"], "Maya Sample", "", [
        "user/*.rs", "user/ServiceRequest.u"])  # fmt: skip
    assert intake.find_case(invited.site.service.context, caller(invited), invited.case).id == invited.case
    # The link works again, for a browser that forgot.
    assert invited.enter(invited.site.browser()).status_code == 303


def test_a_proxy_acts_on_behalf_of_the_patient(site: Site) -> None:
    invited = invite(site, open_case(site, "case-link-2"), "proxy", "Ravi Sample")
    browser = site.browser()
    invited.enter(browser)
    who = browser.get("/who").get_json()
    assert who["name"] == "Ravi Sample"
    assert re.fullmatch(r"Patient/[0-9a-f-]{36}", who["behalf"])
    assert "reference" not in invited.held()["owner"]


def test_no_other_case_is_there_for_the_patient(site: Site, invited: Invited) -> None:
    other = open_case(site, "case-link-3")
    second = invite(site, other)
    context = site.service.context
    with context.database.reading() as connection:
        visible = context.visibility(caller(invited))
        found = {s.case_id for s in map(resources.stored, connection.execute(
            resources.rows().where(resources.visible(visible))))}  # fmt: skip
    assert found == {invited.case}
    for case, who in ((other, invited), (invited.case, second)):
        with pytest.raises(Exception, match="There is no case"):
            intake.find_case(context, caller(who), case)


def test_the_code_is_nowhere_but_in_the_answer(invited: Invited) -> None:
    with invited.site.service.context.database.reading() as connection:
        texts = connection.execute(sa.select(tables.version.c.body)).scalars().all()
    assert not [t for t in texts if invited.code in t]
    kept = next(i["valueString"] for i in invited.held()["input"] if i["type"]["coding"][0]["code"] == "code-hash")
    # With the service's key in it: whoever reads the Task has nothing to try codes against.
    assert invitations._hash(invited.site.service.context, invited.code, kept) == kept
    assert invitations._hash(_other_key(invited), invited.code, kept) != kept


def _other_key(invited: Invited) -> Any:
    return replace(invited.site.service.context, link_secret=b"x" * 32)


def test_five_wrong_codes_close_the_link_for_the_right_one_too(invited: Invited) -> None:
    for left in (4, 3, 2, 1):
        answer = invited.enter(invited.site.browser(), invited.wrong())
        assert answer.status_code == 403
        assert f"After {left} more" in answer.text
    assert invited.enter(invited.site.browser(), invited.wrong()).status_code == 410
    assert invited.enter(invited.site.browser()).status_code == 410
    assert invited.site.browser().get(invited.path).status_code == 410
    held = invited.held()
    assert (held["status"], held["statusReason"]["text"]) == ("cancelled", "a wrong code was given several times")


def test_the_fifth_try_may_still_be_right(invited: Invited) -> None:
    for code in ("", "abc", "123", invited.wrong()):
        assert invited.enter(invited.site.browser(), code).status_code == 403
    assert invited.enter(invited.site.browser()).status_code == 303


def test_closing_by_wrong_codes_ends_who_is_in(invited: Invited) -> None:
    browser = invited.site.browser()
    invited.enter(browser)
    for _ in range(5):
        invited.enter(invited.site.browser(), invited.wrong())
    assert browser.get("/who").status_code == 401


def test_wrong_codes_at_the_same_time_are_all_counted(invited: Invited) -> None:
    with ThreadPoolExecutor(8) as pool:
        said = [
            a.status_code for a in pool.map(lambda _: invited.enter(invited.site.browser(), invited.wrong()), range(12))
        ]
    assert set(said) <= {403, 410}
    assert said.count(403) <= 4
    assert invited.enter(invited.site.browser()).status_code == 410


def test_the_link_expires_after_thirty_days_and_who_is_in_is_out(invited: Invited) -> None:
    invited.site.clock.forward(30 * 86_400 - 60)
    browser = invited.site.browser()
    assert invited.enter(browser).status_code == 303
    invited.site.clock.forward(120)
    assert browser.get("/who").status_code == 401
    assert invited.site.browser().get(invited.path).status_code == 410
    assert invited.enter(invited.site.browser()).status_code == 410


def test_calling_it_back_ends_link_and_session_at_once(invited: Invited) -> None:
    browser = invited.site.browser()
    invited.enter(browser)
    before = caller(invited)
    answer = call(invited.site, f"/{invited.case}/revoke-invite", {"task": invited.task})
    assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")
    assert browser.get("/who").status_code == 401
    assert invited.enter(invited.site.browser()).status_code == 410
    # Nor does the name under which the case knew it open anything.
    with pytest.raises(Exception, match="There is no case"):
        intake.find_case(invited.site.service.context, before, invited.case)
    assert call(invited.site, f"/{invited.case}/revoke-invite", {"task": invited.task}).status_code == 200


def test_another_invitation_of_the_case_stays(site: Site, invited: Invited) -> None:
    second = invite(site, invited.case, "proxy", "Ravi Sample")
    assert second.task != invited.task
    call(site, f"/{invited.case}/revoke-invite", {"task": invited.task})
    assert second.enter(site.browser()).status_code == 303
    # The first one's code does not fit the second's link.
    assert second.enter(site.browser(), invited.code).status_code == 403


@pytest.mark.parametrize("who", ["reviewer", "pcp", "stranger"])
def test_only_coordinator_and_requester_invite(invited: Invited, who: str) -> None:
    for code, body in (
        ("invite-patient", {"relationship": "self", "name": "M"}), ("revoke-invite", {"task": invited.task}),
    ):  # fmt: skip
        assert call(invited.site, f"/{invited.case}/{code}", body, who).status_code == 403
    assert invited.enter(invited.site.browser()).status_code == 303


@pytest.mark.parametrize(
    "body",
    [{}, {"relationship": "self"}, {"relationship": "friend", "name": "M"}, {"relationship": "self", "name": " "},
     {"relationship": "self", "name": "M" * 121}, {"relationship": "self", "name": "M", "code": "00000000"}],
)  # fmt: skip
def test_an_invitation_says_who_and_as_what(invited: Invited, body: dict[str, str]) -> None:
    assert call(invited.site, f"/{invited.case}/invite-patient", body).status_code == 422


@pytest.mark.parametrize("kind", ["garbage", "another purpose", "another task", "changed"])
def test_a_link_that_we_did_not_make_opens_nothing(invited: Invited, kind: str) -> None:
    context = invited.site.service.context
    token = invited.path.rpartition("/")[2]
    with context.database.reading() as connection:
        case = intake.load(connection, EVERYTHING, invited.case)
    other = {
        "garbage": "x" * 46,
        "another purpose": tokens.make(context, tokens.UPLOAD, invited.task),
        "another task": tokens.make(context, invitations.LINK, case.coordination["id"]),
        "changed": ("A" if token[0] != "A" else "B") + token[1:],
    }[kind]
    browser = invited.site.browser()
    assert browser.get(f"/case-link/{other}").status_code == 404
    assert browser.post(f"/case-link/{other}", data={"code": invited.code}).status_code == 404
    assert browser.get_cookie("secondop") is None


def test_the_case_sees_no_hash_change_by_a_plain_write(invited: Invited) -> None:
    held = invited.held()
    held["input"][1]["valueString"] = "AAAA$AAAA"
    answer = invited.site.browser().put(
        f"/fhir/Task/{invited.task}", json=held, content_type="application/fhir+json",
        headers={"Authorization": "Bearer desk", "If-Match": f'W/"{held["meta"]["versionId"]}"'},
    )  # fmt: skip
    assert answer.status_code == 403, answer.text


def test_a_patient_signs_nothing_and_is_not_asked_again(invited: Invited) -> None:
    browser = invited.site.browser()
    invited.enter(browser)
    assert browser.get("/sign-in/again?next=/").status_code == 403


def test_the_code_is_not_taken_from_another_sites_page(invited: Invited) -> None:
    answer = invited.site.browser().post(
        invited.path, data={"code": invited.code}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403


def test_who_used_a_link_stands_in_the_audit_of_its_case(invited: Invited) -> None:
    browser = invited.site.browser()
    browser.get(invited.path)
    invited.enter(browser, invited.wrong())
    invited.enter(browser)
    answer = browser.get(f"/fhir/ServiceRequest/{invited.case}/$audit-trail",
                         headers={"Authorization": "Bearer desk"})  # fmt: skip
    events = [e["resource"] for e in answer.get_json()["entry"]]
    used = [e for e in events if f"link:Task/{invited.task}" in json.dumps(e["agent"])]
    assert [e["outcome"] for e in used].count("4") == 1
    assert len(used) >= 3  # shown, refused, let in; and what was written for it
