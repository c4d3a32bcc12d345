"""The signed document: its exact bytes in a Binary, the signature in the report's Provenance, and whether they hold.

What is verified, delivered and shown as signed is read out of those bytes, never composed anew.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.ehr import document_keys
from fhir_secondop.ehr.documents import sha256
from fhir_secondop.ehr.keys import SigningKey
from fhir_secondop.errors import Conflict, Invalid, NotFound, SecondOpError
from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import records, report, signature
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.signature import Finding
from fhir_secondop.service.context import Context, load, put
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import Stored

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sealed:
    """The signed document of a version. `faults` say why it does not count; then nothing else of it is to be used.

    `matches` is whether the resources that the store has are, but for `meta`, those in the signed bytes.
    """

    version: int
    data: bytes
    jws: str
    finding: Finding
    matches: bool
    faults: tuple[str, ...]
    report: Resource = field(default_factory=dict)  # the DiagnosticReport as it was signed
    resources: tuple[Resource, ...] = ()


def binary_id(case_id: str, version: int) -> str:
    """The id of the Binary with the signed bytes of a version."""
    return derived_id(case_id, "signed-document", version)


def provenance_id(case_id: str, version: int) -> str:
    """The id of the Provenance with the signature of a version."""
    return derived_id(case_id, "provenance", "report", version)


def key_now(context: Context) -> SigningKey:
    """The key that signs documents now. Raises Invalid when there is none."""
    return document_keys.signing(context.document_keys, context.now() // 1000)


def seal(
    tx: Transaction, context: Context, case: Case, bundle: Resource, *, version: int, signer: str, auth_time: str,
    key: SigningKey,
) -> tuple[str, Resource]:  # fmt: skip
    """Keeps the bytes of the document Bundle as they are signed: the Binary's reference, and the Signature."""
    # The same text as the stored Bundle, with its id and without what the store adds to its meta.
    data = codec.splice(codec.compose(bundle), bundle["id"], bundle.get("meta", {})).encode()
    at = context.now() // 1000
    proved = times.interval(auth_time).low // 1000 if auth_time else 0
    detached = signature.sign(
        data, key.key, kid=key.kid, alg=key.alg, issuer=context.public_url, signer=f"{context.base_url}/{signer}",
        at=at, auth_time=proved,
    )  # fmt: skip
    binary = compose(
        "Binary",
        id=binary_id(case.id, version),
        contentType=signature.DOCUMENT,
        securityContext={"reference": reference(bundle)},
        data=base64.b64encode(data).decode(),
    )
    put(tx, context, case.id, records.labelled(case, binary))
    return reference(binary), signature.fhir(detached, times.instant(at * 1000), {"reference": signer})


def examine(context: Context, connection: SqlConnection, case: Case, version: int) -> Sealed:
    """The signed document of a version of the report, looked at in every respect.

    Raises NotFound when the report has no such version.
    """
    if not (case.report is not None and 1 <= version <= report.version_of(case.report)):
        raise NotFound(f"There is no signed version {version} of the report.")

    def kept(kind: str, resource_id: str) -> Stored | None:
        found = resources.find(connection, EVERYTHING, kind, resource_id)
        return None if found is None or found.deleted else found

    provenance = kept("Provenance", provenance_id(case.id, version))
    binary = kept("Binary", binary_id(case.id, version))
    try:
        jws = signature.detached_of(provenance.resource) if provenance else ""
        data = base64.b64decode(binary.resource.get("data", ""), validate=True) if binary else b""
    except (Invalid, ValueError):
        jws, data = "", b""
    if provenance is None or not jws:
        return Sealed(version, data, "", Finding(()), False, ("it has no signature",))
    if not data:
        return Sealed(version, b"", jws, Finding(()), False, ("the signed bytes are not there",))
    keys = document_keys.published(context.document_keys)
    finding = signature.examine(data, jws, keys, kept_at=provenance.updated // 1000)
    if not finding.signature:
        return Sealed(version, data, jws, finding, False, finding.faults)
    try:
        document = codec.parse(data)
        contents = {reference(r): (text, r) for text, r in codec.bundled(data.decode())}
    except (SecondOpError, KeyError):
        return Sealed(version, data, jws, finding, False, ("what was signed is no document",))
    bundle = kept("Bundle", derived_id(case.id, "bundle", version))
    signed_text, signed_report = contents.get(f"DiagnosticReport/{derived_id(case.id, 'report')}", ("", {}))
    differences = []
    if document.get("identifier", {}).get("value") != f"urn:uuid:{derived_id(case.id, 'report', version)}":
        differences.append("the signed document is that of another report or version")
    if bundle is None or bundle.body != codec.body(data.decode()) or bundle.id != document.get("id"):
        differences.append("the Bundle is not the one that was signed")
    stored = _stored_text(connection, provenance.resource["target"][0]["reference"])
    if not signed_text or stored != codec.body(signed_text).text:
        differences.append("the report is not the one that was signed")
    if not _says_the_same(provenance.resource["signature"][0], finding):
        differences.append("the Provenance names another signer or time than the signature")
    return Sealed(version, data, jws, finding, not differences, (*finding.faults, *differences), signed_report,
                  tuple(resource for _, resource in contents.values()))  # fmt: skip


def _says_the_same(named: Resource, finding: Finding) -> bool:
    """Whether a Provenance.signature says what the protected header says: the header alone was signed."""
    at = times.interval(named["when"]).low // 1000
    return at == finding.at and finding.signer.endswith(f"/{named['who'].get('reference', '?')}")


def _stored_text(connection: SqlConnection, versioned: str) -> str:
    """The text of a version in the store, without id and meta; "" of none."""
    ref = refs.parse(versioned)
    if ref is None or not ref.version:
        return ""
    try:
        found = resources.history(connection, EVERYTHING, ref.type, ref.id, version=int(ref.version))
    except SecondOpError:
        return ""
    return found[0].body.text


def require(context: Context, case: Case, version: int) -> Sealed:
    """The signed document of a version. Raises Conflict unless its signature holds: nothing else is delivered."""
    with context.database.reading() as connection:
        found = examine(context, connection, case, version)
    if found.faults:
        raise Conflict(
            f"Not sent: the signature of version {version} of the report does not hold: {'; '.join(found.faults)}. "
            "Find out why ($verify); restore what was signed, or amend and sign it anew, then replay."
        )
    return found


def read(context: Context, caller: Caller, case_id: str, version: int = 0) -> tuple[Case, Sealed]:
    """The case and the signed document of a version (0: the current one), for somebody who may see the case."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
        current = report.version_of(case.report) if case.report is not None else 0
        if not current:
            raise NotFound("There is no signed report yet.")
        return case, examine(context, connection, case, version or current)


def verify(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """Whether signature and bytes of a version hold, who signed it when with which key, and what speaks against it."""
    case, found = read(context, caller, case_id, plain.get("version", 0))
    finding = found.finding
    ref = refs.parse(finding.signer)
    signer = ref.local if ref else ""
    person = case.directory.person(signer)
    return {
        "version": found.version,
        "holds": not found.faults,
        "signature": finding.signature,
        "bytes": found.matches,
        "faults": list(found.faults),
        "signer": {"reference": signer, "name": person.name if person else ""},
        "signedAt": _instant(finding.at),
        "authenticatedAt": _instant(finding.auth_time),
        "key": {"kid": finding.kid, "alg": finding.alg, "revokedAt": _instant(finding.revoked),
                "endedAt": _instant(finding.ended)},
        "document": {"binary": f"Binary/{binary_id(case.id, found.version)}",
                     "bundle": f"Bundle/{derived_id(case.id, 'bundle', found.version)}",
                     "size": len(found.data), "sha256": sha256(found.data) if found.data else ""},
        "jws": found.jws,
        "keys": f"{context.public_url}/.well-known/document-keys.json",
    }  # fmt: skip


def _instant(seconds: int) -> str:
    return times.instant(seconds * 1000) if seconds else ""
