"""Sessions: begun with a new id, ended by the clock, by sign-out and by the people file; and what a POST must carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from flask.testing import FlaskClient

from fhir_secondop.config import load
from fhir_secondop.errors import Invalid
from fhir_secondop.sandbox import demo
from fhir_secondop.store import tables
from fhir_secondop.store.database import Database, now_ms
from fhir_secondop.store.sessions import Sessions
from fhir_secondop.web import roster, signin
from fhir_secondop.web.pending import own_path
from tests.web.conftest import Site, Start

HASHED = roster.generate_password_hash("right", "scrypt:1024:8:1")  # cheap: what it costs is tested elsewhere
PEOPLE = """
[people.reviewer]
subject = "demo|reviewer"
name = "Dr. Clara Standin"
roles = ["reviewer"]
[people.desk]
subject = "demo|desk"
name = "Desk"
roles = ["coordinator", "requester"]
[people.elsewhere]
subject = "https://id.example|elsewhere"
name = "Of a provider"
roles = ["coordinator"]
"""


@pytest.fixture
def site(start: Start, tmp_path: Path) -> Site:
    return demo_site(start, tmp_path)


def demo_site(start: Start, tmp_path: Path, **settings: Any) -> Site:
    accounts = "".join(f'{name} = "{HASHED}"\n' for name in ("reviewer", "desk", "elsewhere", "unlisted"))
    (tmp_path / "accounts.toml").write_text(f"[accounts]\n{accounts}")
    return start(people=PEOPLE, demo_people=str(tmp_path / "accounts.toml"), **settings)


def enter(browser: FlaskClient, account: str = "reviewer", password: str = "right", **more: str) -> Any:
    return browser.post("/sign-in", data={"account": account, "password": password, "next": "/who", **more})


def signed_in(site: Site, account: str = "reviewer") -> FlaskClient:
    browser = site.browser()
    assert enter(browser, account).status_code == 303
    return browser


def cookie_of(browser: FlaskClient) -> str:
    found = browser.get_cookie("secondop")
    assert found is not None
    return str(found.value)


def who(browser: FlaskClient) -> str:
    return str(browser.get("/who").get_json()["id"])


def rows(site: Site) -> list[Any]:
    with site.service.context.database.reading() as connection:
        return list(connection.execute(sa.select(tables.session)).all())


# ---- beginning


def test_the_right_password_signs_in_and_no_other_does(site: Site) -> None:
    browser = site.browser()
    answer = enter(browser)
    assert (answer.status_code, answer.location) == (303, "/who")
    assert browser.get("/who").get_json()["recent"] is True
    for account, password in (
        ("reviewer", "wrong"), ("reviewer", ""), ("nobody", "right"), ("", ""), ("elsewhere", "right"),
        ("unlisted", "right"), ("Reviewer", "right"),
    ):  # fmt: skip
        other = site.browser()
        assert enter(other, account, password).status_code == 401, account
        assert other.get_cookie("secondop") is None


def test_signing_in_gives_a_new_id_whatever_the_browser_had(site: Site) -> None:
    browser = site.browser()
    browser.set_cookie("secondop", "planted-by-somebody-else")
    enter(browser)
    first = cookie_of(browser)
    assert first != "planted-by-somebody-else"
    enter(browser, "desk")
    second = cookie_of(browser)
    assert second != first
    assert who(browser) == "desk"
    # The one before is worth nothing any more.
    browser.set_cookie("secondop", first)
    assert who(browser) == ""
    assert len(rows(site)) == 1


def test_the_database_holds_no_cookie(site: Site) -> None:
    browser = signed_in(site)
    cookie = cookie_of(browser)
    assert len(cookie) == 43  # 256 bits
    assert cookie not in repr(rows(site))
    (row,) = rows(site)
    browser.set_cookie("secondop", row.id)
    assert who(browser) == ""


@pytest.mark.parametrize("base", ["http://127.0.0.1:8100", "https://second.example"])
def test_the_cookie_is_for_this_host_alone_and_for_no_script(start: Start, base: str) -> None:
    site = start(base_url=base) if base.startswith("https") else start()
    cookie = f"{'__Host-' if base.startswith('https') else ''}secondop"
    with site.flask.test_request_context("/", base_url=base):
        answer = site.flask.make_response("")
        site.sign_in._signed_in(answer, "reviewer", "oidc", "x", 0)
    said = answer.headers["Set-Cookie"]
    parts = {part.strip() for part in said.split(";")}
    assert said.startswith(f"{cookie}=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= parts
    assert ("Secure" in parts) is base.startswith("https")
    assert not any(part.startswith(("Domain", "Max-Age", "Expires")) for part in parts)


def test_another_service_on_the_database_knows_the_session(start: Start, site: Site) -> None:
    browser = signed_in(site)
    other = start(demo_people=site.service.settings.demo_people).browser()
    other.set_cookie("secondop", cookie_of(browser))
    assert who(other) == "reviewer"
    other.post("/sign-out", data={"csrf": other.get("/who").get_json()["csrf"]})
    assert who(browser) == ""


# ---- ending


def test_a_session_ends_when_idle_and_not_while_it_is_used(site: Site) -> None:
    browser = signed_in(site)
    for _ in range(5):
        site.clock.forward(600)
        assert who(browser) == "reviewer"
    site.clock.forward(901)
    assert who(browser) == ""


def test_a_session_ends_after_its_longest_time_however_much_it_is_used(site: Site) -> None:
    browser = signed_in(site)
    for _ in range(71):
        site.clock.forward(600)
        assert who(browser) == "reviewer"
    site.clock.forward(601)
    assert who(browser) == ""


def test_the_limits_are_settings(start: Start, tmp_path: Path) -> None:
    site = demo_site(start, tmp_path, session_idle_s=120, session_longest_s=300)
    browser = signed_in(site)
    site.clock.forward(119)
    assert who(browser) == "reviewer"
    site.clock.forward(121)
    assert who(browser) == ""
    browser = signed_in(site)
    for _ in range(2):
        site.clock.forward(100)
        assert who(browser) == "reviewer"
    site.clock.forward(101)
    assert who(browser) == ""


def test_being_seen_is_written_at_most_once_a_minute(site: Site) -> None:
    browser = signed_in(site)
    writes: list[str] = []
    sa.event.listen(
        site.service.context.database.engine, "before_cursor_execute",
        lambda c, cursor, said, *more: writes.append(said) if said.startswith("UPDATE session") else None,
    )  # fmt: skip
    for _ in range(5):
        who(browser)
    assert writes == []
    site.clock.forward(61)
    for _ in range(5):
        who(browser)
    assert len(writes) == 1


def test_signing_out_ends_it_for_good(site: Site) -> None:
    browser = signed_in(site)
    cookie = cookie_of(browser)
    answer = browser.post("/sign-out", data={"csrf": browser.get("/who").get_json()["csrf"]})
    assert (answer.status_code, answer.location) == (303, "/sign-in")
    assert browser.get_cookie("secondop") is None
    browser.set_cookie("secondop", cookie)
    assert who(browser) == ""
    assert rows(site) == []


def test_old_sessions_leave_the_table(site: Site) -> None:
    for _ in range(3):
        signed_in(site)
    site.clock.forward(43_201)
    signed_in(site)
    assert len(rows(site)) == 1


# ---- the people file


def edit(site: Site, text: str) -> None:
    Path(site.service.settings.people_file).write_text(text)


def test_taking_a_person_out_ends_its_sessions_at_once_and_for_good(site: Site) -> None:
    reviewer, desk = signed_in(site), signed_in(site, "desk")
    edit(site, PEOPLE.replace("people.reviewer", "people.other").replace("demo|reviewer", "demo|other"))
    # Anybody's request reads the file again; the session of the one taken out is gone before it is ever asked for.
    assert who(desk) == "desk"
    edit(site, PEOPLE)
    assert who(reviewer) == ""
    assert who(desk) == "desk"


def test_a_changed_role_counts_from_the_next_request(site: Site) -> None:
    browser = signed_in(site)
    edit(site, PEOPLE.replace('["reviewer"]', '["provider", "auditor"]'))
    found = browser.get("/who").get_json()
    assert (found["roles"], found["scopes"]) == (["auditor", "provider"], ["user/*.rus"])


def test_an_entry_that_is_somebody_else_now_ends_the_session(site: Site) -> None:
    browser = signed_in(site)
    edit(site, PEOPLE.replace("demo|reviewer", "demo|another"))
    assert who(browser) == ""


@pytest.mark.parametrize("text", ["[people", "people = 3", None], ids=["no TOML", "no table", "no file"])
def test_a_people_file_that_cannot_be_read_lets_nobody_in(site: Site, text: str | None) -> None:
    browser = signed_in(site)
    if text is None:
        Path(site.service.settings.people_file).unlink()
    else:
        edit(site, text)
    assert browser.get("/who").status_code == 503
    assert enter(site.browser(), "desk").status_code == 503
    edit(site, PEOPLE)
    assert who(browser) == "reviewer"  # it was a slip of the pen, not a decision about anybody


WRONG_PEOPLE = {
    "no way to know it": '[people.x]\nroles = ["reviewer"]',
    "two ways": '[people.x]\nsubject = "a|b"\nemail = "a@b"\nroles = ["reviewer"]',
    "a subject without issuer": '[people.x]\nsubject = "b"\nroles = ["reviewer"]',
    "no roles": '[people.x]\nsubject = "a|b"',
    "an unknown role": '[people.x]\nsubject = "a|b"\nroles = ["admin"]',
    "the service itself": '[people.x]\nsubject = "a|b"\nroles = ["system"]',
    "an operator who reviews": '[people.x]\nsubject = "a|b"\nroles = ["operator", "reviewer"]',
    "an operator with parties": '[people.x]\nsubject = "a|b"\nroles = ["operator"]\nparties = ["a|b"]',
    "parties without system": '[people.x]\nsubject = "a|b"\nroles = ["reviewer"]\nparties = ["b"]',
    "roles that are text": '[people.x]\nsubject = "a|b"\nroles = "reviewer"',
    "an id of ours": '[people.service]\nsubject = "a|b"\nroles = ["reviewer"]',
    "an id of an invitation": '[people.invitation-1]\nsubject = "a|b"\nroles = ["reviewer"]',
    "an id with odd letters": '[people."A B"]\nsubject = "a|b"\nroles = ["reviewer"]',
    "something unknown": '[people.x]\nsubject = "a|b"\nroles = ["reviewer"]\nscopes = ["system/*.cruds"]',
    "no table": "[people]\nx = 1",
    "the same person twice": '[people.x]\nsubject = "a|b"\nroles = ["reviewer"]\n'
    '[people.y]\nsubject = "a|b"\nroles = ["operator"]',
}


@pytest.mark.parametrize("text", WRONG_PEOPLE.values(), ids=WRONG_PEOPLE)
def test_a_wrong_entry_is_named_and_nothing_starts(text: str) -> None:
    with pytest.raises(Invalid, match="people"):
        signin.people.load(text)


def test_an_operator_sees_nothing_clinical() -> None:
    (person,) = signin.people.load('[people.x]\nsubject = "a|b"\nroles = ["operator"]').values()
    caller = signin.people.caller(person, "")
    assert (caller.scopes, caller.parties, caller.roles) == ((), frozenset(), frozenset({"operator"}))


# ---- what a POST must carry


def test_a_post_needs_the_value_of_its_own_session(site: Site) -> None:
    browser, other = signed_in(site), signed_in(site, "desk")
    csrf = browser.get("/who").get_json()["csrf"]
    theirs = other.get("/who").get_json()["csrf"]
    assert browser.post("/act", data={"csrf": csrf}).status_code == 200
    assert browser.post("/act", headers={"X-CSRF-Token": csrf}).status_code == 200
    for sent in ({}, {"csrf": ""}, {"csrf": theirs}, {"csrf": csrf[:-1]}, {"csrf": csrf + "x"}, {"csrf": "é"}):
        assert browser.post("/act", data=sent).status_code == 403, sent
    assert browser.post(f"/act?csrf={csrf}").status_code == 403
    assert site.browser().post("/act", data={"csrf": csrf}).status_code == 403
    assert browser.post("/sign-out", data={"csrf": theirs}).status_code == 403
    assert who(browser) == "reviewer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403), ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200), ({"Origin": "http://127.0.0.1:8100"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)  # fmt: skip
def test_a_post_from_another_site_is_refused_even_with_the_value(
    site: Site, headers: dict[str, str], status: int
) -> None:
    browser = signed_in(site)
    csrf = browser.get("/who").get_json()["csrf"]
    assert browser.post("/act", data={"csrf": csrf}, headers=headers).status_code == status
    expected = 303 if status == 200 else 403
    answer = site.browser().post("/sign-in", data={"account": "desk", "password": "right"}, headers=headers)
    assert answer.status_code == expected


# ---- where to go afterwards

ELSEWHERE = (
    "https://evil.example",
    "http:evil.example",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "\t//evil.example",
    "/%09/evil.example",
    "/%2f/evil.example",
    "/%2Fevil.example",
    "/%5cevil.example",
    "/..//evil.example",
    "/./evil.example",
    "/a/../..//evil.example",
    "/a//evil.example",
    "/%2e%2e//x",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "@evil.example",
    "/a\r\nSet-Cookie: x=1",
    "/a%0d%0aX: 1",
    "/a\nb",
    "/é",
    "/a#@evil.example",
    "",
    " /a",
    "/a b",
    "/" + "a" * 1001,
    "http://127.0.0.1:8100/",
    "/sign-in",
    "/sign-in?next=/x",
    "/sign-out",
    "/case-link/x",
    "/a<script>",
    '/a"',
    "/.well-known/x",
    "?next=/x",
    "/\x00",
)


@pytest.mark.parametrize("wanted", ELSEWHERE, ids=repr)
def test_nobody_is_sent_elsewhere_after_signing_in(wanted: str) -> None:
    assert own_path(wanted) == "/"


@pytest.mark.parametrize(
    "wanted", ["/", "/cases/1", "/cases/1/", "/cases/1?tab=a&x=/y", "/a/b-c_d~e/f.pdf", "/sign-inn"]
)
def test_a_path_of_ours_is_kept(wanted: str) -> None:
    assert own_path(wanted) == wanted


def test_the_form_does_not_send_elsewhere_either(site: Site) -> None:
    assert enter(site.browser(), next="//evil.example").location == "/"


# ---- guessing


def test_an_account_that_is_guessed_at_closes_for_a_while_and_no_other(site: Site) -> None:
    for _ in range(5):
        assert enter(site.browser(), "reviewer", "guess").status_code == 401
    assert enter(site.browser()).status_code == 503
    assert enter(site.browser(), "desk").status_code == 303
    site.clock.forward(901)
    assert enter(site.browser()).status_code == 303


def test_an_address_that_guesses_at_many_names_is_stopped(site: Site) -> None:
    for n in range(30):
        assert enter(site.browser(), f"name-{n}", "guess").status_code == 401
    assert enter(site.browser(), "desk").status_code == 503


def test_signing_in_forgets_the_tries_before(site: Site) -> None:
    for _ in range(3):
        for _ in range(4):
            enter(site.browser(), "reviewer", "guess")
        assert enter(site.browser()).status_code == 303


def test_a_name_that_nobody_has_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    roster._nobody()
    done: list[str] = []
    real = roster.check_password_hash
    monkeypatch.setattr(roster, "check_password_hash", lambda h, p: done.append(h.split("$")[0]) or real(h, p))
    known = {"a": roster.generate_password_hash("right", roster.HASHED)}
    assert roster.is_password(known, "a", "right")
    assert not roster.is_password(known, "nobody", "right")
    assert done == [roster.HASHED, roster.HASHED]


def test_once_more_for_a_signature_is_the_same_person(site: Site) -> None:
    browser = signed_in(site)
    csrf = browser.get("/who").get_json()["csrf"]
    site.clock.forward(600)
    assert browser.get("/who").get_json()["recent"] is False
    assert 'name="again"' in browser.get("/sign-in/again?next=/who").text
    assert enter(browser, "desk", again="1").status_code == 403
    assert browser.get("/who").get_json()["recent"] is False
    assert enter(browser, again="1").status_code == 303
    found = browser.get("/who").get_json()
    assert (found["id"], found["recent"], found["csrf"]) == ("reviewer", True, csrf)


# ---- settings

BASE = 'people_file = "people.toml"\n'
WRONG_SETTINGS = {
    'oidc_issuer = "https://id.example"\noidc_client_id = "x"\noidc_client_auth = "none"': "people_file",
    BASE + 'oidc_issuer = "https://id.example"\noidc_client_auth = "none"': "oidc_client_id",
    BASE + 'oidc_issuer = "http://id.example"\noidc_client_id = "x"\noidc_client_auth = "none"': "oidc_issuer",
    BASE + 'oidc_issuer = "id.example"\noidc_client_id = "x"\noidc_client_auth = "none"': "oidc_issuer",
    BASE + 'oidc_issuer = "https://id.example"\noidc_client_id = "x"': "oidc_secret_file",
    BASE + 'oidc_issuer = "https://id.example"\noidc_client_id = "x"\noidc_client_auth = "magic"': "oidc_client_auth",
    BASE + 'demo_people = "people.toml"\nbase_url = "https://second.example"': "demo_people",
    BASE + 'demo_people = "people.toml"\noidc_issuer = "https://id.example"\noidc_client_id = "x"\n'
    'oidc_client_auth = "none"': "demo_people",
    'people_file = "missing.toml"': "people_file",
    "session_idle_s = 5": "session_idle_s",
    "session_longest_s = 0": "session_longest_s",
    "signing_age_s = 86400": "signing_age_s",
}


@pytest.mark.parametrize(("text", "named"), WRONG_SETTINGS.items(), ids=range(len(WRONG_SETTINGS)))
def test_a_wrong_setting_of_sign_in_is_refused_and_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "people.toml").write_text("")
    (tmp_path / "secondop.toml").write_text(text)
    with pytest.raises(Invalid, match=named):
        load(str(tmp_path / "secondop.toml"), {})


def test_without_any_way_to_sign_in_nobody_is_signed_in(start: Start) -> None:
    browser = start().browser()
    assert "Nobody can sign in here yet" in browser.get("/sign-in").text
    assert browser.get("/who").status_code == 401
    assert browser.post("/sign-in", data={"account": "desk", "password": "right"}).status_code == 401
    assert browser.get("/sign-in/callback?code=x&state=y").status_code == 401


def test_with_auth_none_the_pages_are_the_local_callers(start: Start) -> None:
    browser = start(auth="none").browser()
    found = browser.get("/who").get_json()
    assert (found["id"], found["recent"]) == ("local", True)
    assert browser.post("/act", data={"csrf": "x"}).status_code == 403
    assert browser.post("/act", data={"csrf": found["csrf"]}).status_code == 200


# ---- the whole as processes


def test_the_demo_starts_with_passwords_that_work(tmp_path: Path) -> None:
    with demo.case_folder("breast-treatment-plan") as case:
        layout = demo.lay_out(tmp_path / "demo", case)
        first = demo.new_passwords(layout)
        processes = demo.Processes(layout)
        try:
            processes.start_service()
            assert set(processes.passwords) == set(layout.tokens)
            assert set(processes.passwords.values()).isdisjoint(first.values())
            browser = requests.Session()
            form = {"account": "reviewer", "password": processes.passwords["reviewer"], "next": "/docs"}
            said = browser.post(f"{layout.url}/sign-in", data=form, allow_redirects=False, timeout=10)
            assert (said.status_code, said.headers["Location"]) == (303, "/docs")
            # Another process on the same database knows the session that the service's process began.
            database = Database(str(layout.folder / "secondop.sqlite"))
            found = Sessions(database, now_ms, 900_000, 900_000).find(browser.cookies["secondop"])
            database.dispose()
            assert found is not None
            assert (found.person, found.way) == ("reviewer", "demo")
            form["password"] = first["reviewer"]
            assert requests.post(f"{layout.url}/sign-in", data=form, timeout=10).status_code == 401
            held = "".join(p.read_text("utf-8", "replace") for p in layout.folder.glob("*.toml"))
            assert not [text for text in processes.passwords.values() if text in held]
            assert (layout.folder / demo.ACCOUNTS).stat().st_mode & 0o077 == 0
        finally:
            processes.stop()
        assert not [t for t in processes.passwords.values() if t in (layout.folder / "service.log").read_text()]
