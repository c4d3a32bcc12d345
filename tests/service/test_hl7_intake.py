"""Referrals and orders by HL7 v2, sent by a client that is not ours: taken once, or refused with the place."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest
import sqlalchemy as sa
from hl7.client import MLLPClient

from fhir_secondop.hl7v2.framing import framed
from fhir_secondop.service import intake
from fhir_secondop.store import tables
from fhir_secondop.web import hl7_replies
from fhir_secondop.web.mllp import Listener
from tests.service.conftest import RIVERSIDE, Bench, Listen

EXAMPLES = Path(__file__).parent.parent.parent / "examples/hl7v2"


def example(name: str = "ref-i12") -> str:
    return (EXAMPLES / f"{name}.hl7").read_text("utf-8").replace("\n", "\r")


def sent(listener: Listener, *messages: str) -> list[hl7.Message]:
    """What is answered to each, over one connection."""
    with MLLPClient("127.0.0.1", listener.port) as client:
        return [hl7.parse(client.send_message(message.encode()).strip(b"\x0b\x1c\r")) for message in messages]


def code(answer: hl7.Message) -> str:
    return str(answer.segment("MSA")[1])


def errors(answer: hl7.Message) -> dict[str, str]:
    """Place → code of each ERR."""
    return {str(e[2]): str(e[3]).split("^")[0] for e in answer if str(e[0]) == "ERR"}


def cases(bench: Bench) -> int:
    with bench.service.context.database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(tables.resource)
        found: int = connection.execute(query.where(tables.resource.c.type == "ServiceRequest")).scalar_one()
        return found


def test_a_referral_opens_a_case_and_is_answered_by_rri(bench: Bench, listen: Listen) -> None:
    (answer,) = sent(listen(), example())
    assert str(answer.segment("MSH")[9]) == "RRI^I12^RRI_I12"
    assert (code(answer), str(answer.segment("MSA")[2])) == ("AA", "RS-MSG-1")
    referral = answer.segment("RF1")
    assert (str(referral[1]), str(referral[6])) == ("P", "RS-2026-0117^RIVERSIDE")
    case_id = str(referral[11]).split("^")[0]
    package = bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$package").get_json()
    found = {r["resourceType"]: r for r in (e["resource"] for e in package["entry"])}
    request = bench.call("GET", f"/fhir/ServiceRequest/{case_id}").get_json()
    assert request["identifier"][0]["value"] == "RS-2026-0117"
    assert found["Patient"]["name"] == [{"family": "Sampleton", "given": ["Maren", "Elise"]}]
    assert [i["value"] for i in found["Patient"]["identifier"]] == ["RS-100482", "LK-77310"]
    assert found["Patient"]["telecom"] == [
        {"system": "phone", "value": "2025550142"}, {"system": "email", "value": "maren.sampleton@mail.example"},
    ]  # fmt: skip
    assert request["reasonCode"][1]["coding"][0]["code"] == "doubt-treatment-plan"
    assert found["Condition"]["code"]["coding"][0]["code"] == "C50.412"
    assert found["CarePlan"]["description"].startswith("Total mastectomy left")
    asked = [i["answer"][0]["valueString"] for i in found["QuestionnaireResponse"]["item"]]
    assert asked == ["Can the breast be kept, or is mastectomy needed?", "Is chemotherapy needed & if so, which?"]
    assert [job[0] for job in bench.enqueued].count("gather") == 1


def test_an_order_opens_a_case_and_is_answered_by_org(bench: Bench, listen: Listen) -> None:
    (answer,) = sent(listen(), example("omg-o19"))
    assert str(answer.segment("MSH")[9]) == "ORG^O20^ORG_O20"
    order = answer.segment("ORC")
    assert (code(answer), str(order[1]), str(order[2])) == ("AA", "OK", "RS-2026-0118^RIVERSIDE")
    request = bench.call("GET", f"/fhir/ServiceRequest/{str(order[3]).split('^')[0]}").get_json()
    assert request["priority"] == "asap"
    assert request["reasonCode"][1]["coding"][0]["code"] == "seek-confirmation"


def test_a_message_that_comes_again_is_answered_the_same_and_opens_nothing(bench: Bench, listen: Listen) -> None:
    again = example().replace("20261123093000-0500", "20261123094500-0500")
    first, second = sent(listen(), example(), again)
    assert str(first.segment("RF1")) == str(second.segment("RF1"))
    assert str(first.segment("MSH")[10]) == str(second.segment("MSH")[10])
    assert cases(bench) == 1


@pytest.mark.parametrize("change", [("RS-MSG-1", "RS-MSG-9"), ("RS-2026-0117", "RS-2026-0999")])
def test_other_content_under_a_number_that_was_used_is_refused(
    change: tuple[str, str], bench: Bench, listen: Listen
) -> None:
    other = example().replace("cT2 cN0 cM0", "cT3 cN0 cM0").replace(*change)
    first, second = sent(listen(), example(), other)
    assert (code(first), code(second)) == ("AA", "AE")
    assert errors(second) == {"RF1^1^6": "205"}
    assert cases(bench) == 1


def test_two_applications_of_a_facility_may_count_alike(bench: Bench, listen: Listen) -> None:
    other = example("omg-o19").replace("|EPIC|", "|LAB|").replace("RS-MSG-2", "RS-MSG-1")
    assert "|LAB|RIVERSIDE|" in other
    assert "|RS-MSG-1|" in other
    assert [code(a) for a in sent(listen(), example(), other, other)] == ["AA", "AA", "AA"]
    assert cases(bench) == 2


NULLED = (
    ("RS-100482^^^RSMRN^MR", 'RS-100482^^^RSMRN^MR^^""'),
    ("RS-100482^^^RSMRN^MR", "RS-100482^^^RSMRN^MR^^20200101120000"),
    ("Sampleton^Maren^Elise^^^^L", 'Sampleton^Maren^Elise^^""^^L^^^^^""'),
    ("9000000111^NPI", '9000000111^NPI^""^""'),
)


@pytest.mark.parametrize("change", NULLED)
def test_what_they_wrote_beside_a_name_or_number_is_no_hindrance_to_the_answer(
    change: tuple[str, str], bench: Bench, listen: Listen
) -> None:
    assert change[0] in example()
    first, second = sent(listen(), example().replace(*change), example().replace(*change))
    assert (code(first), str(first.segment("MSH")[9])) == ("AA", "RRI^I12^RRI_I12")
    assert str(first.segment("PID")[3]) == "RS-100482^^^RSMRN^MR"
    assert str(second.segment("RF1")) == str(first.segment("RF1"))
    assert cases(bench) == 1


@pytest.mark.parametrize("application", ["E" * 300, "\\T\\".join("EPICEPICEPICEPICEPIC" * 3)])
def test_a_sender_whose_name_does_not_fit_into_a_message_of_ours_is_answered(
    application: str, bench: Bench, listen: Listen
) -> None:
    message = example().replace("|EPIC|", f"|{application}|")
    taken, refused = sent(listen(), message, message.replace("|19710417|", "||").replace("RS-MSG-1", "RS-MSG-2"))
    assert (code(taken), str(taken.segment("MSA")[2]), str(taken.segment("MSH")[6])) == ("AA", "RS-MSG-1", "RIVERSIDE")
    assert (code(refused), errors(refused)) == ("AE", {"PID^1^7": "101"})
    assert cases(bench) == 1


def test_whatever_fails_after_the_case_is_committed_it_is_acknowledged(
    bench: Bench, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(hl7_replies, "_referral", broken)
    (answer,) = sent(listen(), example())
    assert (code(answer), str(answer.segment("MSA")[2]), cases(bench)) == ("AA", "RS-MSG-1", 1)


DIAGNOSIS = (
    "C50.412^Malignant neoplasm of upper-outer quadrant of left female breast^I10|"
    "Invasive ductal carcinoma of the left breast, cT2 cN0 cM0"
)
REFUSED: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "|SO||RS-2026-0117^RIVERSIDE|20261123|||S^",
        "|XX||RS-2026-0117^RIVERSIDE|20261123|||X^",
        "AE",
        {"RF1^1^4": "103"},
    ),
    ("RS-2026-0117^RIVERSIDE", "", "AE", {"RF1^1^6": "101"}),
    ("RS-100482^^^RSMRN^MR~LK-77310^^^LKMRN^MR", "RS-100482^^^NOBODY^MR", "AE", {"PID^1^3": "101"}),
    ("|19710417|F|", "|19710431|X|", "AE", {"PID^1^7": "102", "PID^1^8": "103"}),
    ("|19710417|", "||", "AE", {"PID^1^7": "101"}),
    ("Sampleton^Maren", "^Maren", "AE", {"PID^1^5": "101"}),
    ("PRD|RP~PP|", "PRD|PP|", "AE", {"PRD^1^1": "101"}),
    ("Placeholder^Ines", "^Ines", "AE", {"PRD^1^2": "101", "PRD^1^1": "101"}),
    (DIAGNOSIS, "|", "AE", {"DG1^1^3": "101"}),
    ("REF^I12^REF_I12", "ADT^A01^ADT_A01", "AR", {"MSH^1^9": "200"}),
    ("|P|2.5.1", "|T|2.5.1", "AR", {"MSH^1^11": "202"}),
    ("|P|2.5.1", "|P|3.0", "AR", {"MSH^1^12": "203"}),
    ("|EPIC|RIVERSIDE|", "|EPIC|ELSEWHERE|", "AR", {"MSH^1^4": "204"}),
    ("|RS-MSG-1|", "||", "AE", {"MSH^1^10": "101"}),
    ("Sampleton^", "S" * 300 + "^", "AE", {"PID^1": "103"}),
)


def test_a_refusal_names_segment_and_field_and_nothing_is_stored(bench: Bench, listen: Listen) -> None:
    for old, new, *_ in REFUSED:
        assert old in example()
        assert old != new
    answers = sent(listen(), *(example().replace(old, new) for old, new, *_ in REFUSED))
    assert [(code(a), errors(a)) for a in answers] == [(said, places) for *_, said, places in REFUSED]
    assert cases(bench) == 0


@pytest.mark.parametrize("change", [("|SO||", "|XX||"), ("S^Second opinion^HL70336~", "")])
def test_either_field_says_that_it_is_a_second_opinion(change: tuple[str, str], bench: Bench, listen: Listen) -> None:
    (answer,) = sent(listen(), example().replace(*change))
    assert code(answer) == "AA"


def test_every_segment_of_an_order_that_is_missing_is_named(bench: Bench, listen: Listen) -> None:
    whole = example("omg-o19").strip().split("\r")
    for name, place in (("PID", "PID^1"), ("ORC", "ORC^1"), ("OBR", "OBR^1"), ("DG1", "DG1^1")):
        (answer,) = sent(listen(), "\r".join(line for line in whole if not line.startswith(name)))
        assert code(answer) == "AE"
        assert errors(answer)[place] == "101"
    assert cases(bench) == 0


def test_a_provider_of_a_place_that_nobody_configured_is_not_taken_for_one_of_the_sender(
    bench: Bench, listen: Listen
) -> None:
    (answer,) = sent(listen(), example().replace("^^^LAKESIDE", "^^^ELSEWHERE"))
    case_id = str(answer.segment("RF1")[11]).split("^")[0]
    package = bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$package").get_json()
    places = {r["name"]: r.get("identifier") for r in (e["resource"] for e in package["entry"])
              if r["resourceType"] == "Organization"}  # fmt: skip
    assert places["ELSEWHERE"] is None


def test_only_the_networks_of_a_sender_are_its_own(bench: Bench, listen: Listen) -> None:
    elsewhere = replace(RIVERSIDE, networks=("10.20.0.0/16",))
    here = replace(RIVERSIDE, name="harbour", facility="HARBOUR")  # so that the connection is taken
    (answer,) = sent(listen(elsewhere, here), example())
    assert (code(answer), errors(answer)) == ("AR", {"MSH^1^4": "204"})


def test_where_only_a_commit_is_asked_for_it_is_acknowledged_by_ca(bench: Bench, listen: Listen) -> None:
    committing = example().replace("|P|2.5.1||||||", "|P|2.5.1|||AL|NE||")
    taken, refused = sent(listen(), committing, committing.replace("|19710417|", "||"))
    assert (code(taken), str(taken.segment("MSH")[9])) == ("CA", "ACK^I12^ACK")
    assert code(refused) == "CE"


def test_what_fails_on_our_side_is_not_acknowledged_and_goes_in_the_next_time(
    bench: Bench, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError("No space left on device")

    listener = listen()
    with monkeypatch.context() as broken:
        broken.setattr(intake, "_store", full)
        (failed,) = sent(listener, example())
    assert (code(failed), errors(failed)) == ("AE", {"MSH^1": "207"})
    assert cases(bench) == 0
    (taken,) = sent(listener, example())
    assert code(taken) == "AA"


def test_several_connections_at_once_open_one_case_for_one_message(bench: Bench, listen: Listen) -> None:
    listener = listen()
    answers: list[hl7.Message] = []
    threads = [threading.Thread(target=lambda: answers.extend(sent(listener, example()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [code(a) for a in answers] == ["AA"] * 4
    assert len({str(a.segment("RF1")[11]) for a in answers}) == 1
    assert cases(bench) == 1


def test_a_listener_survives_what_is_no_message_too_large_or_never_ends(bench: Bench, listen: Listen) -> None:
    listener = listen(most_bytes=10_000, idle_s=0.3, message_s=0.3)
    for junk in (b"GET / HTTP/1.1\r\n\r\n", framed(b"\xff\xfe"), b"\x0bMSH|^~\\&|half", b"\x0b" + b"x" * 20_000):
        with socket.create_connection(("127.0.0.1", listener.port)) as made:
            made.settimeout(5)
            made.sendall(junk)
            with contextlib.suppress(ConnectionResetError):  # the same, with bytes of ours still unread
                assert made.recv(100) == b""  # closed without an acknowledgement
    (answer,) = sent(listener, example())
    assert code(answer) == "AA"


NUMBERS = (
    ("000-00-0000^^^SSA&2.16.840.1.113883.4.1&ISO^SS", False),  # an authority that nobody configured
    ("LK-9^^^X&https://lakeside.example/mrn&URI", False),  # the same, though it names the system of another's numbers
    ("4711^^^LKMRN^AN", False),  # an account, no patient
    ("LK-1^^^LKMRN^MR^^19990101^20251231", False),  # expired
    ("LK-1^^^LKMRN^MR^^20990101", False),  # not yet
    ("LK-1^^^LKMRN^MR^^20260101120000^20991231", True),
    ("LK-1^^^LKMRN", True),
    ("LK-1^^^LKMRN^PI", True),
)


@pytest.mark.parametrize(("number", "taken"), NUMBERS)
def test_only_the_numbers_of_configured_authorities_that_hold_now_are_the_patients(
    number: str, taken: bool, bench: Bench, listen: Listen
) -> None:
    (answer,) = sent(listen(), example().replace("LK-77310^^^LKMRN^MR", number))
    case_id = str(answer.segment("RF1")[11]).split("^")[0]
    package = bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$package").get_json()
    (patient,) = (e["resource"] for e in package["entry"] if e["resource"]["resourceType"] == "Patient")
    assert [i["value"] for i in patient["identifier"]] == ["RS-100482", *([number.split("^")[0]] if taken else [])]


def test_a_number_that_expires_on_no_date_is_refused(bench: Bench, listen: Listen) -> None:
    (answer,) = sent(listen(), example().replace("LK-77310^^^LKMRN^MR", "LK-77310^^^LKMRN^MR^^^soon"))
    assert (code(answer), errors(answer)) == ("AE", {"PID^1^3^2^8": "102"})


UNREADABLE = (
    ("|||UNICODE UTF-8", "|||BIG-5", {"MSH^1^18": "103"}),
    ("|||UNICODE UTF-8", "|||ASCII", {"MSH^1^18": "103"}),  # and an umlaut, below
    ("|^~\\&|", "|^^^^|", {"MSH^1^2": "103"}),
    ("PID|1|", "pid|1|", {"MSH^1": "103"}),
    ("RS-100482^^^RSMRN^MR", "RS-100482^^^RSMRN&1.2&ISO&MORE^MR", {}),  # read, though it has more than an HD has
)


def test_what_can_not_be_read_is_answered_with_the_place_if_only_its_head_can(bench: Bench, listen: Listen) -> None:
    changed = [example().replace("Sampleton^", "Sämpleton^").replace(*change[:2]) for change in UNREADABLE]
    assert all(change[0] in example() for change in UNREADABLE)
    answers = sent(listen(), *changed)
    assert [(code(a), errors(a)) for a in answers] == [("AE" if places else "AA", places) for *_, places in UNREADABLE]
    assert all(str(a.segment("MSA")[2]) == "RS-MSG-1" for a in answers)
