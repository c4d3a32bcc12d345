"""The tests of primitive types that need no call of Python's own, against those that decide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.fhir import definitions, primitives

AT_ONCE = {
    name: quick
    for name in ("absolute", *sorted(definitions.data_types()))
    if (name == "absolute" or definitions.structure(name).kind == "primitive-type")
    and (quick := primitives.at_once(name))
}


def test_most_texts_are_found_sound_at_once() -> None:
    assert set(AT_ONCE) == {"absolute", "canonical", "code", "date", "dateTime", "id", "instant", "markdown", "string",
                            "uri", "url"}  # fmt: skip
    sound = {"code": "final", "date": "2024-02-28", "dateTime": "2024-02-28T10:00:00+01:00", "id": "a-1",
             "instant": "2024-02-28T10:00:00.123Z", "markdown": "Größe: 日本\n1", "string": "Größe: 日本"}  # fmt: skip
    for name, quick in AT_ONCE.items():
        assert quick(sound.get(name, "http://example.org/fhir")), name


@pytest.mark.parametrize("name", AT_ONCE)
@given(data=st.data())
def test_what_is_found_sound_at_once_is_sound(name: str, data: Any) -> None:
    quick = AT_ONCE[name]
    made = st.from_regex(quick.__self__, fullmatch=True)  # type: ignore[attr-defined]  # the method of a pattern
    text = data.draw(made | st.text())
    assert not quick(text) or primitives.test(name)(text)


@pytest.mark.parametrize("text", ["2023-02-29", "2024-04-31", "2024-02-30", "2024-02-31"])
def test_the_last_days_of_a_month_are_looked_up(text: str) -> None:
    for name in ("date", "dateTime"):
        assert not AT_ONCE[name](text)
        assert not primitives.test(name)(text)
    assert primitives.test("date")("2024-02-29")
