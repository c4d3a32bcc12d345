"""Reads the part of FHIRPath's grammar that search parameters and R4's invariants use into a tree of `Node`s.

Source: http://hl7.org/fhirpath/N1/grammar.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fhir_secondop.errors import Unsupported

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)|`(?P<quoted>[^`]+)`|%(?P<variable>[A-Za-z]\w*)|(?P<string>'(?:[^'\\]|\\.)*')"
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<sign>!=|<=|>=|[.()\[\],|=<>$+&]))"
)
# Loosest first, as in the grammar's list of precedence.
LEVELS = (
    ("implies",), ("or", "xor"), ("and",), ("in", "contains"), ("=", "!="), ("<", "<=", ">", ">="), ("|",),
    ("is", "as"), ("+", "&"),
)  # fmt: skip


_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_SPACES = {"f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _escaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else _SPACES.get(match[2], match[2])


@dataclass(frozen=True, slots=True)
class Node:
    """`kind`: context, member, call, index, literal, variable or operator. `base` is what stands before the dot.

    `value` is the name, the number or the literal; `arguments` the operands of an operator or call.
    """

    kind: str
    value: Any = None
    base: Node | None = None
    arguments: tuple[Node, ...] = ()


def parse(expression: str) -> Node:
    """The tree of an expression. Raises Unsupported at what we do not read."""
    parser = _Parser(expression)
    node = parser.operation(0)
    if parser.peek() != ("end", ""):
        raise parser.unreadable()
    return node


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        end = 0
        while expression[end:].strip():
            match = _TOKEN.match(expression, end)
            if match is None:
                raise self.unreadable()
            kind = str(match.lastgroup)
            self.tokens.append((kind, match[kind]))
            end = match.end()

    def unreadable(self) -> Unsupported:
        return Unsupported(f"not a FHIRPath expression of the kind that FHIR R4's own are: {self.expression}")

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, text: str) -> bool:
        kind, value = self.peek()
        if kind in ("sign", "name") and value == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.unreadable()

    def operation(self, level: int) -> Node:
        if level == len(LEVELS):
            return self.path()
        left = self.operation(level + 1)
        while self.peek()[0] in ("sign", "name") and self.peek()[1] in LEVELS[level]:
            operator = self.take()[1]
            left = Node("operator", operator, None, (left, self.operation(level + 1)))
        return left

    def path(self) -> Node:
        node = self.term()
        while True:
            if self.accept("."):
                node = self.invocation(node)
            elif self.accept("["):
                kind, text = self.take()
                if kind != "number" or "." in text:
                    raise self.unreadable()
                node = Node("index", int(text), node)
                self.expect("]")
            else:
                return node

    def term(self) -> Node:
        kind, text = self.peek()
        if self.accept("("):
            node = self.operation(0)
            self.expect(")")
            return node
        if self.accept("$"):
            if self.take() != ("name", "this"):
                raise self.unreadable()
            return Node("context")
        if kind == "variable":
            self.take()
            return Node("variable", text)
        if kind == "string":
            self.take()
            return Node("literal", _ESCAPE.sub(_escaped, text[1:-1]))
        if kind == "number":
            self.take()
            return Node("literal", int(text)) if "." not in text else self.fail()
        if kind == "name" and text in ("true", "false"):
            self.take()
            return Node("literal", text == "true")
        return self.invocation(Node("context"))

    def fail(self) -> Node:
        raise self.unreadable()

    def invocation(self, base: Node) -> Node:
        kind, name = self.take()
        if kind not in ("name", "quoted"):
            raise self.unreadable()
        if not self.accept("("):
            return Node("member", name, base)
        arguments: list[Node] = []
        while not self.accept(")"):
            if arguments:
                self.expect(",")
            arguments.append(self.operation(0))
        return Node("call", name, base, tuple(arguments))
