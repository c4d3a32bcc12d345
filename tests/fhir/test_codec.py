"""What was received is the truth: every byte outside id and meta comes back, and what is no JSON of ours is refused."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec

BOTH_LAST = ('{"resourceType":"Patient","id":"1","meta":{}}',
             [('"resourceType"', '"Patient"'), ('"id"', '"1"'), ('"meta"', "{}")])  # fmt: skip

# --- JSON text as odd as it may be written ----------------------------------------------------------------------

SPACE = st.sampled_from(["", "", " ", "\n", "\t", "\r\n", "  \n  "])
NUMBERS = st.sampled_from(
    ["0", "-0", "1.10", "1e2", "1E+2", "-1.50e-3", "1234567890123456789012345", "0.0000000000000000000000001", "7"]
)
LETTERS = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('"\\/{}[],:')


@st.composite
def string_tokens(draw: Any, text: Any = None) -> str:
    """A JSON string in which any character may be escaped."""
    written = []
    for character in draw(st.text(LETTERS, max_size=8) if text is None else st.just(text)):
        must = character in '"\\'
        if character == "/" and draw(st.booleans()):
            written.append("\\/")
        elif must:
            written.append("\\" + character)
        elif ord(character) < 0x10000 and draw(st.integers(0, 5)) == 0:
            written.append(f"\\u{ord(character):04{draw(st.sampled_from('xX'))}}")
        else:
            written.append(character)
    return '"' + "".join(written) + '"'


@st.composite
def objects(draw: Any, members: list[tuple[str, str]]) -> str:
    """The text of an object with these members (key, value token) and odd space between them."""
    parts = []
    for key, value in members:
        before, after_key, before_value, after = (draw(SPACE) for _ in range(4))
        parts.append(f"{before}{key}{after_key}:{before_value}{value}{after}")
    return "{" + ",".join(parts) + (draw(SPACE) if not parts else "") + "}"


@st.composite
def values(draw: Any, depth: int = 2) -> str:
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind == 0:
        return str(draw(NUMBERS))
    if kind == 1:
        return str(draw(st.sampled_from(["true", "false", "null"])))
    if kind <= 3:
        return str(draw(string_tokens()))
    if kind == 4:
        inner = [draw(values(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
        return "[" + ",".join(f"{draw(SPACE)}{value}{draw(SPACE)}" for value in inner) + "]"
    keys = draw(
        st.lists(st.sampled_from(["id", "meta", "reference", "a", "b", "resourceType"]), unique=True, max_size=3)
    )
    return str(draw(objects([(draw(string_tokens(key)), draw(values(depth - 1))) for key in keys])))


OUGHT = {"id": '"1"', "meta": '{ "versionId" : "3" , "profile":["x"] }', "resourceType": '"Patient"'}


@st.composite
def resources(draw: Any, top: tuple[str, ...] = ("id", "meta")) -> tuple[str, list[tuple[str, str]]]:
    """The text of a resource, and its members in their order as they are written."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "contained"]), unique=True, max_size=3))
    names += draw(st.lists(st.sampled_from(top), unique=True)) if top else []
    order = draw(st.permutations([*names, "resourceType"]))
    members = [(draw(string_tokens(name)), OUGHT[name] if name in OUGHT else draw(values())) for name in order]
    text = draw(SPACE) + draw(objects(members)) + draw(SPACE)
    return text, members


def key_of(token: str) -> str:
    return str(json.loads(token))


@given(made=resources())
@example(made=BOTH_LAST)
@settings(max_examples=300, deadline=None)
def test_every_member_but_id_and_meta_comes_back_byte_for_byte_and_in_its_order(
    made: tuple[str, list[tuple[str, str]]],
) -> None:
    text, members = made

    body, resource = codec.split(text)
    again = codec.splice(body, "new", {"versionId": "9"})

    parsed = json.loads(again)  # it is JSON at all
    assert (parsed.pop("id"), parsed.pop("meta")) == ("new", {"versionId": "9"})
    assert list(parsed) == [key_of(k) for k, _ in members if key_of(k) not in ("id", "meta")]
    at = 0
    for key, value in members:
        if key_of(key) not in ("id", "meta"):
            at = again.index(key, at)
            at = again.index(value, at + len(key)) + len(value)
    assert resource == codec.parse(text)


@given(made=resources(top=()))
@settings(max_examples=200, deadline=None)
def test_what_has_neither_id_nor_meta_keeps_every_byte(made: tuple[str, Any]) -> None:
    text, _ = made

    body, _ = codec.split(text)

    assert body.text == text
    put_in = ',"id":"new","meta":{}'
    again = codec.splice(body, "new", {})
    assert again == text[: body.cut] + put_in + text[body.cut :]
    assert json.loads(again)["id"] == "new"


@given(made=resources())
@example(made=BOTH_LAST)
@settings(max_examples=150, deadline=None)
def test_what_was_spliced_can_be_split_and_spliced_for_ever(made: tuple[str, Any]) -> None:
    """A client reads a resource and puts it back: only space beside id and meta may go, and only once."""
    body, _ = codec.split(made[0])

    again, _ = codec.split(codec.splice(body, "x", {"versionId": "1"}))

    assert codec.parse(again.text) == codec.parse(body.text)
    assert codec.split(codec.splice(again, "y", {"versionId": "2"}))[0] == again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id":"1","resourceType":"X","a":1}', '{"resourceType":"X",NEW,"a":1}'),
        ('{"resourceType":"X","id":"1","a":1}', '{"resourceType":"X",NEW,"a":1}'),
        ('{"resourceType":"X","a":1,"id":"1"}', '{"resourceType":"X",NEW,"a":1}'),
        ('{"resourceType":"X","a":1,"meta":{},"id":"1"}', '{"resourceType":"X",NEW,"a":1}'),
        ('{"resourceType":"X","id":"1","meta":{}}', '{"resourceType":"X",NEW}'),
        ('{"resourceType":"X","meta":{}, "id":"1" }', '{"resourceType":"X",NEW }'),
        ('{"meta":{},"id":"1","resourceType":"X"}', '{"resourceType":"X",NEW}'),
        ('{"id":"1","resourceType":"X","meta":{}}', '{"resourceType":"X",NEW}'),
        ('{"resourceType":"X"}', '{"resourceType":"X",NEW}'),
        ('{"a":{"id":"2","meta":{}},"resourceType":"X"}', '{"a":{"id":"2","meta":{}},"resourceType":"X",NEW}'),
        ('{"\\u0069d":"1","resourceType":"X","a":1}', '{"resourceType":"X",NEW,"a":1}'),
    ],
)
def test_id_and_meta_are_taken_out_wherever_they_stand(text: str, expected: str) -> None:
    body, _ = codec.split(text)

    again = codec.splice(body, "n", {"v": "1"})

    assert again == expected.replace("NEW", '"id":"n","meta":{"v":"1"}')


def test_the_parsed_resource_has_id_and_meta_as_they_were_sent() -> None:
    _, resource = codec.split('{"resourceType":"X","id":"1","meta":{"tag":[1]}}')

    assert resource == {"resourceType": "X", "id": "1", "meta": {"tag": [1]}}


# --- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1.10", "1e2", "0.50", "1E-7", "12345678901234567890.1"])
def test_a_decimal_keeps_its_digits_through_parsing_and_writing(number: str) -> None:
    value = codec.parse(f'{{"a":{number}}}')["a"]

    assert isinstance(value, Decimal)
    assert value.as_tuple() == Decimal(number).as_tuple()
    assert codec.parse(codec.dumps({"a": value}))["a"].as_tuple() == value.as_tuple()


@pytest.mark.parametrize("number", ["1.10", "1e2", "1E+02", "-0", "-0.0", "7", "1234567890123456789012345"])
def test_a_number_is_kept_as_it_is_written_where_that_is_asked_for(number: str) -> None:
    value = codec.parse_exact(f'{{"a":[{number}]}}')["a"][0]
    assert type(value) is codec.Number
    assert value == number


@pytest.mark.parametrize("number", ["1e9999999999999999999", "-1.5e-9999999999999999999"])
def test_an_exponent_beyond_what_can_be_counted_is_refused(number: str) -> None:
    with pytest.raises(Malformed, match="exponent"):
        codec.parse(f'{{"a":{number}}}')


@pytest.mark.parametrize("number", ["7", "-0", "1234567890123456789012345"])
def test_a_whole_number_of_any_length_is_read_and_written(number: str) -> None:
    assert codec.dumps(codec.parse(f'{{"a":{number}}}')) == f'{{"a":{int(number)}}}'


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_lacks_is_refused(constant: str) -> None:
    with pytest.raises(Malformed, match=constant):
        codec.parse(f'{{"a":{constant}}}')


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"a":1,"\\u0061":2}',
        '{"a":{"b":[{"c":1,"c":1}]}}',
        '{"id":"1","id":"1","resourceType":"X"}',
    ],
)
def test_a_key_that_stands_twice_is_refused_and_named(text: str) -> None:
    with pytest.raises(Malformed, match="twice"):
        codec.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "null", "1", '"x"', "[]", "[{}]", "{", '{"a":}', '{"a":1,}', "{'a':1}", '{"a":01}', '{"a":1} x', "{}{}",
     '{"a":"\t"}', '{"a":"\\x"}', '{"a":"\\ud83"}', '{"a":.5}', '{"a":1.}', "\ufeff{}", '{"a":+1}', "{\u00a0}"],
)  # fmt: skip
def test_what_is_not_one_json_object_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        codec.parse(text)
    with pytest.raises(Malformed):
        codec.parse(text.encode())


@pytest.mark.parametrize(
    "text", ['{"a":"\\u0000"}', '{"\\u0000":1}', '{"a":["x\\ud800"]}', '{"a":"\\udc00\\ud800"}', '{"\\ud83d":1}']
)
def test_a_nul_or_half_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        codec.parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a":"\\ud83d\\ude00"}', "😀"), ('{"a":"\\\\u0000"}', "\\u0000"), ('{"a":"\\\\ud800"}', "\\ud800")],
)
def test_a_whole_pair_and_an_escaped_backslash_are_taken(text: str, value: str) -> None:
    assert codec.parse(text) == {"a": value}


@pytest.mark.parametrize(
    "data", [b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', '{"a":1}'.encode("utf-16"), b'{"a":"\xc0\x80"}']
)
def test_a_body_that_is_not_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        codec.parse(data)


def test_a_byte_order_mark_is_refused_and_named() -> None:
    with pytest.raises(Malformed, match="byte order mark"):
        codec.parse(b"\xef\xbb\xbf{}")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_hundred_levels_are_taken_and_one_more_is_refused(opening: str, closing: str) -> None:
    def nested(levels: int) -> str:
        return '{"a":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}"

    codec.parse(nested(codec.MAX_DEPTH))
    for levels in (codec.MAX_DEPTH + 1, 100_000):
        with pytest.raises(Malformed, match="deeper"):
            codec.parse(nested(levels))


def test_brackets_within_strings_and_beside_each_other_are_no_depth() -> None:
    codec.parse(json.dumps({"a": "[" * 500, "b": '"{' * 500, "c": [[] for _ in range(500)], "d": "\\" * 5 + "["}))


@pytest.mark.parametrize("text", ["{}", '{"resourceType":1}', '{"resourceType":null}', '{"resourcetype":"X"}'])
def test_a_resource_without_its_type_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="resourceType"):
        codec.split(text)


@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=200)
def test_any_bytes_are_parsed_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        parsed = codec.parse(data)
    except Malformed:
        return
    assert isinstance(parsed, dict)


# --- entries of a Bundle ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), parts=st.lists(resources() | st.none(), max_size=4))
@settings(max_examples=150, deadline=None)
def test_the_resources_of_a_bundle_are_exact_slices_of_it(seed: int, parts: list[tuple[str, Any] | None]) -> None:
    spaced = random.Random(seed)

    def space() -> str:
        return spaced.choice(["", "", " ", "\n\t", "\r\n"])

    entries = []
    for part in parts:
        members = [f'"fullUrl"{space()}:{space()}"urn:x"', '"request":{"method":"POST","resource":"no"}']
        if part is not None:
            members.append(f'"resource"{space()}:{space()}{part[0].strip()}')
        spaced.shuffle(members)
        entries.append(space() + "{" + f"{space()},{space()}".join(members) + space() + "}" + space())
    text = f'{space()}{{"resourceType":"Bundle",{space()}"x":{{"entry":[1]}},"entry":{space()}[{",".join(entries)}]}}'
    codec.parse(text)

    assert codec.entry_resources(text) == [part and part[0].strip() for part in parts]
    held = [part[0].strip() for part in parts if part is not None]
    assert codec.bundled(text) == [(each, codec.parse(each)) for each in held]


@pytest.mark.parametrize(
    "text",
    [
        '{"entry":[{},{"resource":{"resourceType":"Basic","id":"1"}},{ }],"resourceType":"Bundle"}',
        '\n{ "resourceType" : "Bundle", "entry" : [ {"resource":{"resourceType":"Basic","id":"1"}} ] }',
        '{"resourceType":"Basic","id":"1"}',
    ],
)
def test_a_resource_is_found_in_any_bundle_and_alone(text: str) -> None:
    assert codec.bundled(text) == [('{"resourceType":"Basic","id":"1"}', {"resourceType": "Basic", "id": "1"})]


def test_numbers_that_are_read_back_keep_their_digits() -> None:
    text = '{"resourceType":"Basic","a":1.10,"b":12345678901234567890123456789,"c":[0.1]}'
    assert codec.trusted(text) == codec.parse(text)
    assert str(codec.trusted(text)["a"]) == "1.10"


@pytest.mark.parametrize("text", ['{"resourceType":"Bundle"}', '{"entry":[]}', '{"entry":null}', '{"entry":{}}', "{}"])
def test_a_bundle_without_entries_has_no_resources(text: str) -> None:
    assert codec.entry_resources(text) == []


# --- what we compose --------------------------------------------------------------------------------------------


@given(made=resources())
@settings(max_examples=100, deadline=None)
def test_a_composed_body_says_what_the_resource_says(made: tuple[str, Any]) -> None:
    resource = codec.parse(made[0])

    body = codec.compose(resource)

    rest = {key: value for key, value in resource.items() if key not in ("id", "meta")}
    assert codec.parse(body.text) == rest
    assert codec.parse(codec.splice(body, "n", {})) == {**rest, "id": "n", "meta": {}}


_TOKENS = ["[", "]", "{", "}", ",", '"a"', r'"[\""', r'"\\"', r'"{{\n["', "1"]


@given(st.lists(st.sampled_from(_TOKENS), max_size=300), st.integers(0, 3))
def test_depth_is_what_counting_bracket_by_bracket_says(tokens: list[str], deeper: int) -> None:
    """The quick way says yes only where the slow one does; brackets in strings are no brackets."""
    text = "".join(tokens)
    text = "[" * (codec.MAX_DEPTH - 1 + deeper) + text + "]" * (codec.MAX_DEPTH - 1 + deeper)
    depth = deepest = 0
    for match in codec._NESTING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group(), 0)
        deepest = max(deepest, depth)
    if deepest > codec.MAX_DEPTH:
        with pytest.raises(Malformed, match="deeper"):
            codec.check_depth(text)
    else:
        codec.check_depth(text)


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


_KEY = st.sampled_from(["a", "b", ":", '"', '":', '":"', "a:", '\\":'])


@st.composite
def _with_twins(draw: Any, depth: int = 2) -> str:
    """The text of an object whose keys and strings are full of quotes and colons, and stand twice at times."""
    found = []
    for key in draw(st.lists(_KEY, max_size=4)):
        value = draw(string_tokens(draw(_KEY)) | NUMBERS) if not depth or draw(st.booleans()) else ""
        found.append((draw(string_tokens(key)), value or draw(_with_twins(depth - 1))))
    return str(draw(objects(found)))


@given(text=_with_twins())
@example(text='{"a":1,"a":":"}')
@example(text='{"a":1,"a" :2}')
@example(text='{"a":1,"a":2,"b":"x\\u0022:"}')
@example(text='{"a":1,"a":2,"b":"x\\"\\u003A"}')
@example(text='{"a":1,"a":2,"b":"\\u0022\\u003a"}')
@settings(max_examples=400, deadline=None)
def test_what_stands_twice_is_found_however_quotes_and_colons_are_written(text: str) -> None:
    try:
        expected = json.loads(text, object_pairs_hook=_no_twice, parse_float=Decimal)
    except AssertionError:
        with pytest.raises(Malformed, match="stands twice"):
            codec.parse(text)
    else:
        found = codec.parse(text)
        assert found == expected
        assert json.dumps(found, default=str) == json.dumps(expected, default=str)  # types and order, too
