"""JSON Patch of a resource: RFC 6902 by jsonpatch, within the bounds that a body from outside needs. Pure.

Source: https://hl7.org/fhir/R4/http.html#patch, https://www.rfc-editor.org/rfc/rfc6902
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jsonpatch

from fhir_secondop.errors import Conflict, Invalid, Malformed, TooLarge
from fhir_secondop.fhir import codec
from fhir_secondop.model import Resource

MAX_OPERATIONS = 1000
MAX_CHARACTERS = 64 * 1024 * 1024  # of a patched resource: each "copy" may double it

Operation = Mapping[str, Any]


def parse(text: str) -> Sequence[Operation]:
    """The operations of a JSON Patch document. Raises Malformed with the place ("[2]"), TooLarge."""
    operations = codec.parse_array(text)
    if len(operations) > MAX_OPERATIONS:
        raise TooLarge(f"The patch has {len(operations)} operations; send at most {MAX_OPERATIONS} at once.")
    for place, operation in enumerate(operations):
        if not isinstance(operation, dict):
            raise Malformed("A patch is a list of operations, each a JSON object.", path=f"[{place}]")
        if operation.get("op") in ("add", "replace", "test") and "value" not in operation:
            raise Malformed(f"The operation {operation['op']} needs a value.", path=f"[{place}].value")
        try:
            jsonpatch.JsonPatch([operation])
        except (jsonpatch.InvalidJsonPatch, jsonpatch.JsonPointerException) as error:
            said = "This is no operation of RFC 6902: op (add, remove, replace, move, copy, test), path, from, value."
            raise Malformed(said, path=f"[{place}]") from error
    return operations


def apply(resource: Resource, operations: Sequence[Operation]) -> Resource:
    """A patched copy of a resource, all operations or none, its narrative no longer than it is true.

    Raises Conflict with the operation's place where the resource is not as the patch takes it to be (a path that is
    not there, a test that fails), Invalid where type or id would change.
    """
    patched: Any = copy.deepcopy(resource)
    for place, operation in enumerate(operations):
        here = f"[{place}]"
        try:
            patched = jsonpatch.JsonPatch([operation]).apply(patched, in_place=True)
        except jsonpatch.JsonPatchTestFailed as error:
            # What stands there is not repeated: it may be a patient's.
            raise Conflict("The test does not hold; nothing was changed.", path=here) from error
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
            said = "The resource has nothing at this place, or takes nothing there; nothing was changed."
            raise Conflict(said, path=here) from error
        except RecursionError as error:
            raise Invalid(f"Nested deeper than {codec.MAX_DEPTH} levels.", path=here) from error
        if operation["op"] == "copy" and len(codec.dumps(patched)) > MAX_CHARACTERS:
            raise TooLarge(f"The patched resource is larger than {MAX_CHARACTERS} characters.", path=here)
    if not isinstance(patched, dict):
        raise Invalid("The patch leaves no resource.")
    for kept in ("resourceType", "id"):
        if patched.get(kept) != resource.get(kept):
            raise Invalid(f"A patch can't change {kept}; nothing was changed.", path=kept)
    return _with_true_narrative(resource, patched)


def _with_true_narrative(before: Resource, after: Resource) -> Resource:
    """The patched resource without a narrative that was made of what has been changed.

    Of what R4 names, reject or delete: a narrative that says more than the data is not thrown away by us.
    """
    text = after.get("text")
    if not isinstance(text, dict) or text != before.get("text") or text.get("status") == "empty":
        return after
    untold = ("text", "meta")
    if all(before.get(name) == after.get(name) for name in {*before, *after} if name not in untold):
        return after
    if text.get("status") != "generated":
        raise Conflict(
            "The narrative says more than the data that the patch changes; patch /text, too. Nothing was changed.",
            path=f"{after['resourceType']}.text",
        )
    return {name: value for name, value in after.items() if name != "text"}
