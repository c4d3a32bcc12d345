"""XML → JSON.

Read by expat, which says at which byte, line and column it stands: a fault has its place, and a narrative is cut out
as it was sent. The JSON is written while reading; no tree of either is made.
Source: https://hl7.org/fhir/R4/xml.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any, NoReturn
from xml.parsers import expat

from fhir_secondop.errors import Issue, Malformed
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.faults import MAX_FAULTS, Place, expression, root
from fhir_secondop.fhir.xmlnarrative import MAX_NAMESPACE, Div, Unfit, doctype_at, standalone
from fhir_secondop.fhir.xmlplan import FHIR, NUMBER, OBJECT, RESOURCE, STRING, XHTML_DIV, Field, Plan, plan, resources

MAX_DECLARED = 50  # namespaces outside of narratives: one is needed
_SCHEMA_LOCATION = "http://www.w3.org/2001/XMLSchema-instance schemaLocation"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")


def from_xml(data: bytes) -> str:
    """The JSON text of a resource in XML: numbers, narratives and the order of what repeats as they were sent.

    Comments outside of narratives, and xsi:schemaLocation at the top, are left out: JSON has no place for them.
    Whether the resource is valid is not asked.
    Raises Malformed, with line, column and FHIR path, on anything that is not one resource in well-formed XML 1.0
    in UTF-8; on a DOCTYPE, processing instructions, a narrative that is none, and nesting deeper than 100. After all
    else it reads on, and its issues name every fault: text outside of narratives, other namespaces, elements and
    attributes that R4 does not have there, another order than R4's, values that are no JSON number or boolean where
    there must be one.
    Source: https://hl7.org/fhir/R4/xml.html, https://hl7.org/fhir/R4/json.html
    """
    if data[:2] in _UTF16:
        raise Malformed("The body is UTF-16; FHIR XML is always UTF-8.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := doctype_at(data)) >= 0:
        before = data[:at].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _malformed("must not have a DOCTYPE", "", line, column)
    return _Reader(data).read()


def _issue(message: str, path: str, line: int, column: int) -> Issue:
    return Issue("error", "structure", path, f"{path or 'The document'} {message}.", line, column)


def _malformed(message: str, path: str, line: int, column: int, before: Sequence[Issue] = ()) -> Malformed:
    return _refused([*before, _issue(message, path, line, column)])


def _refused(issues: list[Issue]) -> Malformed:
    """What says the first in words, and has all."""
    first = issues[0]
    said = f"Line {first.line}, column {first.column}: {first.diagnostics}"
    return Malformed(said, path=first.expression, issues=issues)


class _Frame:
    """An element that is open, and what was written of it.

    `kind` RESOURCE holds a resource and nothing else; a primitive holds extensions. `depth` is of brackets in the JSON.
    """

    __slots__ = ("companions", "count", "depth", "elements", "field", "kind", "last", "out", "parent", "place",
                 "type", "value", "values")  # fmt: skip

    def __init__(self, kind: int, of: Plan | None, field: Any, parent: Any, place: Place, out: list[str]) -> None:
        self.kind = kind
        self.elements: dict[str, Field] = _NOTHING if of is None else of.elements
        self.type = "" if of is None else of.name
        self.field: Field = field
        self.parent: _Frame = parent
        self.place = place
        self.depth = place[3]
        self.out = out
        self.last: Field | None = None
        """The field of the child read last; `count` is how many of the same stood before it."""
        self.count = 0
        self.value = ""
        self.values: list[str] = []
        """Those of the children, where they repeat and are primitives; beside them their ids and extensions."""
        self.companions: list[str] = []


_NOTHING: dict[str, Field] = {}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._out: list[str] = []
        self._frame = _Frame(RESOURCE, None, None, None, (None, "", None, 0), self._out)
        self._div: Div | None = None
        self._scope: dict[str, list[str]] = {}
        """Prefix ("" is the default) → namespaces, the innermost last, of what is declared outside of narratives."""
        self._leaf: Field | None = None
        """The primitive that is open and had no children yet: most never have one, and need no frame."""
        self._value = "null"
        self._id: str | None = None
        self._faults: list[Issue] = []
        """Those after which it could read on."""
        self._skipped = 0
        """How many elements are open in one that is at fault: nothing in it is looked at."""
        self._parser = parser = expat.ParserCreate("utf-8", " ")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = lambda *_: self._fault("must not have a DOCTYPE")
        parser.ProcessingInstructionHandler = lambda *_: self._fault("must not have processing instructions")
        parser.StartNamespaceDeclHandler = self._namespace
        parser.EndNamespaceDeclHandler = self._end_of_namespace
        self._outside_of_narratives()

    def _outside_of_narratives(self) -> None:
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def read(self) -> str:
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError as error:
            said = f"is not well-formed XML: {expat.ErrorString(error.code)}"
            raise _malformed(said, self._path(), error.lineno, error.offset + 1, self._faults) from error
        if self._faults:
            raise _refused(self._faults)
        return "".join(self._out)

    def _place(self) -> Place:
        return self._frame.place if self._leaf is None else self._child(self._leaf)

    def _child(self, field: Field) -> Place:
        """The place of the child of the open element that began last."""
        frame, is_many = self._frame, field.is_many
        return (frame.place, field.name, frame.count if is_many else None, frame.depth + 1 + is_many)

    def _path(self, place: Place | None = None) -> str:
        return expression(place or self._place()).lstrip(".")  # outside of the resource there is none

    def _fault(self, message: str, place: Place | None = None) -> NoReturn:
        """One after which nothing can be read."""
        parser = self._parser
        at = parser.CurrentLineNumber, parser.CurrentColumnNumber + 1
        raise _malformed(message, self._path(place), *at, self._faults)

    def _note(self, message: str, place: Place | None = None) -> None:
        """One after which it reads on; the JSON is given to nobody then."""
        if len(self._faults) == MAX_FAULTS:
            self._fault(f"has more faults than these {MAX_FAULTS}; they are not named", place)
        at = self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1
        self._faults.append(_issue(message, self._path(place), *at))

    def _skip(self) -> None:
        """Passes over the element that has just begun, and all in it."""
        self._skipped = 1
        self._parser.StartElementHandler = self._start_skipped
        self._parser.EndElementHandler = self._end_skipped
        self._parser.CharacterDataHandler = None

    def _start_skipped(self, name: str, attributes: dict[str, str]) -> None:
        self._skipped += 1

    def _end_skipped(self, name: str) -> None:
        self._skipped -= 1
        if not self._skipped:
            self._outside_of_narratives()

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if version != "1.0":
            self._fault("must be XML 1.0")
        if encoding is not None and encoding.upper() != "UTF-8":
            self._fault("declares another encoding than UTF-8; FHIR XML is always UTF-8")

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        if len(uri or "") > MAX_NAMESPACE:
            self._fault(f"may not declare a namespace of more than {MAX_NAMESPACE} characters")
        if self._div is None:
            self._scope.setdefault(prefix or "", []).append(uri or "")
            if sum(map(len, self._scope.values())) > MAX_DECLARED:
                self._fault(f"may not declare more than {MAX_DECLARED} namespaces")

    def _end_of_namespace(self, prefix: str | None) -> None:
        if self._div is None:
            self._scope[prefix or ""].pop()

    def _text(self, text: str) -> None:
        if text.strip(" \t\r\n"):
            self._note("may not have text: values stand in attributes")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._leaf is not None:
            self._open_leaf(self._leaf)
        frame = self._frame
        field = frame.elements.get(name)
        if field is None:
            self._resource(name, attributes)
            return
        last = frame.last
        if field is last:
            if not field.is_many:
                self._note("may not repeat", (frame.place, field.name, None, 0))
                self._skip()
                return
            frame.count += 1
        else:
            if last is not None:
                if field.ordinal <= last.ordinal:
                    self._misplaced(field, last)
                    return
                if last.is_many:
                    _close(frame, last)
            frame.last = field
            frame.count = 0
        kind = field.kind
        if kind < XHTML_DIV:
            self._primitive(field, attributes)
        elif kind == XHTML_DIV:
            self._narrative(name, attributes)
        else:
            if frame.count:
                frame.out.append(",")
            else:
                _put(frame.out, field.member + "[" if field.is_many else field.member)
            place = self._child(field)
            if kind == OBJECT:
                self._object(plan(field.type), field, attributes, place, "{")
            else:
                if attributes:
                    self._stray_attribute(attributes, place)
                self._frame = _Frame(RESOURCE, None, field, frame, (*place[:3], place[3] - 1), frame.out)

    def _object(self, of: Plan, field: Any, attributes: dict[str, str], place: Place, bracket: str) -> None:
        if place[3] > codec.MAX_DEPTH:
            self._fault(f"is nested deeper than {codec.MAX_DEPTH} levels", place)
        out = self._frame.out
        self._frame = _Frame(OBJECT, of, field, self._frame, place, out)
        out.append(bracket)
        for key, text in attributes.items():
            if key not in of.attributes:
                self._stray_attribute({key: text}, place)
                continue
            _put(out, f'"{key}":{_quoted(text)}')

    def _resource(self, name: str, attributes: dict[str, str]) -> None:
        """The resource in a document, contained, or in another; anything else there may be is a fault."""
        frame = self._frame
        if frame.kind != RESOURCE:
            self._stray(name)
            return
        frame.count += 1
        if (type_name := resources().get(name)) is None:
            self._note(_not_a_resource(name))
            self._skip()
            return
        if frame.count > 1:
            self._note("may hold one resource only")
            self._skip()
            return
        place = frame.place
        if frame.parent is None:
            place = root(type_name)
            attributes.pop(_SCHEMA_LOCATION, None)
        place = (*place[:3], frame.depth + 1)
        self._object(plan(type_name), None, attributes, place, f'{{"resourceType":"{type_name}"')

    def _primitive(self, field: Field, attributes: dict[str, str]) -> None:
        value, id_ = attributes.get("value"), attributes.get("id")
        if len(attributes) != (value is not None) + (id_ is not None):
            strays = {k: v for k, v in attributes.items() if k not in ("value", "id")}
            self._stray_attribute(strays, self._child(field))
        # Brackets around the value, and around its id.
        if self._frame.depth + field.is_many + (id_ is not None) > codec.MAX_DEPTH:
            self._fault(f"is nested deeper than {codec.MAX_DEPTH} levels", self._child(field))
        self._leaf, self._id = field, id_
        if value is None:
            self._value = "null"
        elif field.kind == STRING:
            self._value = _quoted(value)
        elif field.kind == NUMBER:
            self._value = value
            if not _NUMBER(value):
                self._wrong_value("must be a number")
        else:
            self._value = value
            if value not in ("true", "false"):
                self._wrong_value("must be true or false")

    def _wrong_value(self, message: str) -> None:
        self._note(message)
        self._value = "0"  # there is one, whatever it is

    def _open_leaf(self, field: Field) -> None:
        """A frame for a primitive that has children: what they write is its companion's."""
        out = [] if self._id is None else [f'"id":{_quoted(self._id)}']
        frame = _Frame(field.kind, plan("Element"), field, self._frame, self._child(field), out)
        frame.value = self._value
        self._frame, self._leaf = frame, None

    def _end(self, name: str) -> None:
        frame, leaf = self._frame, self._leaf
        if leaf is not None:
            companion = "null" if self._id is None else f'{{"id":{_quoted(self._id)}}}'
            if companion == self._value:
                self._note("must have a value, an id or extensions")
            self._leaf = None
            _write(frame, leaf, self._value, companion)
            return
        last = frame.last
        if last is not None and last.is_many:
            _close(frame, last)
        self._frame = frame.parent
        if frame.kind == OBJECT:
            frame.out.append("}")
        elif frame.kind < XHTML_DIV:
            _write(frame.parent, frame.field, frame.value, "{" + "".join(frame.out) + "}")
        elif not frame.count:
            self._note("must hold a resource", frame.place)

    def _narrative(self, name: str, attributes: dict[str, str]) -> None:
        self._div = Div(self._parser, self._data)
        self._parser.StartElementHandler = self._in_narrative
        self._parser.EndElementHandler = self._end_in_narrative
        self._parser.CharacterDataHandler = None
        self._in_narrative(name, attributes)

    def _in_narrative(self, name: str, attributes: dict[str, str]) -> None:
        assert self._div is not None
        try:
            self._div.start(name, attributes)
        except Unfit as unfit:
            self._fault(str(unfit))

    def _end_in_narrative(self, name: str) -> None:
        assert self._div is not None
        if self._div.end(name):
            try:
                text = self._div.text()
                if self._scope.keys() != {""}:  # else it declares its namespace itself
                    text = standalone(text, {prefix: uris[-1] for prefix, uris in self._scope.items() if uris})
            except Unfit as unfit:
                self._fault(str(unfit))
            _put(self._frame.out, f'"div":{_quoted(text)}')
            self._div = None
            self._outside_of_narratives()

    def _misplaced(self, field: Field, last: Field) -> None:
        place = (self._frame.place, field.name, None, 0)
        if field.ordinal == last.ordinal:
            self._note("may be of one type only; there are several", place)
        else:
            self._note(f"must stand before {last.key}", place)
        self._skip()

    def _stray(self, name: str) -> None:
        namespace, _, local = name.rpartition(" ")
        of = self._frame.type
        if namespace != FHIR:
            self._note("has an element in a namespace that is not that of FHIR, or that may not stand there")
        elif self._frame.kind < XHTML_DIV:
            self._note("may have extensions only")
        elif _NAME.fullmatch(local):
            self._note(f"has an element {local}, which R4 (4.0.1) does not have in {of}")
        else:
            self._note(f"has an element whose name can't be that of an element of {of}")
        self._skip()

    def _stray_attribute(self, attributes: dict[str, str], place: Place) -> None:
        key = next(iter(attributes))
        said = f"an attribute {key}" if _NAME.fullmatch(key) else "an attribute"
        self._note(f"may not have {said}", place)


def _not_a_resource(name: str) -> str:
    namespace, _, _ = name.rpartition(" ")
    if namespace != FHIR:
        return f"must be a resource in the namespace {FHIR}"
    return "must be of a resource type that FHIR R4 (4.0.1) has"


def _put(out: list[str], member: str) -> None:
    """A member of the object that is being written."""
    out.append("," + member if out and out[-1] != "{" else member)


def _write(frame: _Frame, field: Field, value: str, companion: str) -> None:
    """A primitive, and its id and extensions, into the object that it is in."""
    if field.is_many:
        frame.values.append(value)
        frame.companions.append(companion)
        return
    out = frame.out
    if value != "null":
        out.append(f",{field.member}{value}" if out and out[-1] != "{" else field.member + value)
    if companion != "null":
        _put(out, field.companion + companion)


def _close(frame: _Frame, last: Field) -> None:
    """The end of what repeats: an array, or two where there are ids or extensions of primitives."""
    if last.kind >= XHTML_DIV:
        frame.out.append("]")
        return
    for member, items in ((last.member, frame.values), (last.companion, frame.companions)):
        if any(item != "null" for item in items):
            _put(frame.out, f"{member}[{','.join(items)}]")
    frame.values, frame.companions = [], []
