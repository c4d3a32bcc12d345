"""Reads the annotations of a Java class file's fields, which is where HAPI keeps the compartments.

Source: The Java Virtual Machine Specification, chapter 4 (class file format), 4.4 and 4.7.16.
"""

from __future__ import annotations

from typing import Any

# Bytes after the tag of each constant but Utf8 (1): most are two references or an int.
CONSTANT_SIZE = dict.fromkeys(range(2, 21), 4) | {5: 8, 6: 8, 7: 2, 8: 2, 15: 3, 16: 2, 19: 2, 20: 2}

Annotation = tuple[str, dict[str, Any]]


class Reader:
    """A cursor over the bytes of one class."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 8  # magic number and version
        self.constants: dict[int, str] = {}

    def number(self, size: int = 2) -> int:
        self.at += size
        return int.from_bytes(self.content[self.at - size : self.at], "big")

    def constant(self) -> str:
        return self.constants.get(self.number(), "")

    def read_constants(self) -> None:
        index, count = 1, self.number()
        while index < count:
            tag = self.number(1)
            if tag == 1:
                size = self.number()
                self.constants[index] = self.content[self.at : self.at + size].decode("utf-8", "replace")
            else:
                size = CONSTANT_SIZE[tag]
            self.at += size
            index += 2 if tag in (5, 6) else 1  # long and double take two places

    def annotation(self) -> Annotation:
        return self.constant(), {self.constant(): self.value() for _ in range(self.number())}

    def value(self) -> Any:
        tag = chr(self.number(1))
        if tag == "@":
            return self.annotation()
        if tag == "[":
            return [self.value() for _ in range(self.number())]
        if tag == "e":
            self.number()
        return self.constant()


def field_annotations(content: bytes) -> list[Annotation]:
    """(type descriptor, {name: value}) of each annotation of each field."""
    reader = Reader(content)
    reader.read_constants()
    reader.at += 6  # flags, this class, its superclass
    interfaces = reader.number()
    reader.at += 2 * interfaces
    found: list[Annotation] = []
    for _ in range(reader.number()):
        reader.at += 6  # flags, name, descriptor
        for _ in range(reader.number()):
            name, size = reader.constant(), reader.number(4)
            end = reader.at + size
            if name == "RuntimeVisibleAnnotations":
                found += [reader.annotation() for _ in range(reader.number())]
            reader.at = end
    return found
