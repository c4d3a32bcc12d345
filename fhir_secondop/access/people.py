"""People who sign in: who is who by the people file, and what each role may ask for.

[people.ID] with subject ("issuer|sub") or email (then a verified email claim of the provider names the person), and
name, roles, parties. An operator has no other role and no parties: the one who runs it sees no clinical content.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Caller, Person

# SMART v2 letters on every type, by role; which rows they reach is for visibility to say.
SCOPES: Mapping[str, str] = {
    "coordinator": "crus",
    "requester": "crus",
    "reviewer": "rus",
    "provider": "rus",  # to acknowledge and decide
    "patient": "rs",
    "auditor": "",
    "operator": "",
}
_LETTERS = "cruds"
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Ids under which the program itself acts.
_TAKEN = frozenset({"local", "service", "limits", "sign-in"})
INVITED = "invitation-"
_TEXTS = ("subject", "email", "name")
_LISTS = ("roles", "parties")


def load(text: str) -> Mapping[str, Person]:
    """People by their id. Raises Invalid naming the entry that is wrong."""
    try:
        entries = tomllib.loads(text).get("people", {})
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"The people file is not TOML: {error}") from error
    if not isinstance(entries, dict):
        raise Invalid("The people file has tables, [people.ID].", path="people")
    people = {key: _person(key, entry) for key, entry in entries.items()}
    known: dict[str, str] = {}
    for person in people.values():
        for proof in filter(None, (person.subject, person.email)):
            if proof in known:
                raise Invalid(f"people.{person.id} is the same person as {known[proof]}.", path=f"people.{person.id}")
            known[proof] = person.id
    return people


def _person(key: str, entry: Any) -> Person:
    where = f"people.{key}"
    if not isinstance(entry, dict):
        raise Invalid(f"{where} must be a table: [people.{key}].", path=where)
    if not _ID.fullmatch(key) or key in _TAKEN or key.startswith(INVITED):
        raise Invalid(f"{where}: an id has small letters, digits, '.', '_' and '-', and is none of ours.", path=where)
    for name, value in entry.items():
        if name not in (*_TEXTS, *_LISTS):
            raise Invalid(f"{where}.{name} is unknown; known are {', '.join((*_TEXTS, *_LISTS))}.", path=where)
        fits = isinstance(value, str) if name in _TEXTS else _is_texts(value)
        if not fits:
            raise Invalid(f"{where}.{name} must be {'text' if name in _TEXTS else 'a list of texts'}.", path=where)
    subject, email = entry.get("subject", ""), entry.get("email", "").casefold()
    if bool(subject) == bool(email):
        raise Invalid(f'{where} needs a subject ("issuer|sub"), or else an email.', path=where)
    if subject and not all(subject.rpartition("|")[::2]):
        raise Invalid(f'{where}.subject is written "issuer|sub".', path=where)
    roles = frozenset(entry.get("roles", []))
    if not roles or roles - set(SCOPES):
        raise Invalid(f"{where}.roles: use some of {', '.join(sorted(SCOPES))}.", path=where)
    parties = frozenset(entry.get("parties", []))
    if any("|" not in party for party in parties):
        raise Invalid(f"{where}.parties are written system|value.", path=where)
    if "operator" in roles and (len(roles) > 1 or parties):
        raise Invalid(f"{where}: an operator has no other role and no parties.", path=where)
    return Person(key, entry.get("name", key), subject, email, roles, parties)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def of_proof(people: Mapping[str, Person], proof: str) -> Person | None:
    """The person of what a sign-in has proved: "issuer|sub", or an email address that the provider has verified."""
    return next((p for p in people.values() if proof and proof in (p.subject, p.email)), None)


def caller(person: Person, auth_time: str) -> Caller:
    """The person as a Caller; `auth_time` is the FHIR instant of the last proof of who it is."""
    return Caller(person.id, person.name, person.roles, scopes(person.roles), person.parties, auth_time=auth_time)


def scopes(roles: frozenset[str]) -> tuple[str, ...]:
    """The SMART v2 scopes of these roles together."""
    letters = "".join(letter for letter in _LETTERS if any(letter in SCOPES[role] for role in roles))
    # A patient asks about the report, and for a third opinion, by operations on the request; nothing else is changed.
    asks = ("user/ServiceRequest.u",) if "patient" in roles and "u" not in letters else ()
    if letters:
        return (f"user/*.{letters}", *asks)
    return ("user/AuditEvent.rs",) if "auditor" in roles else ()
