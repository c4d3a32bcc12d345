"""Our verdicts against HL7's, counted by kind of fault; and every disagreement with its reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fhir_secondop.errors import Issue, SecondOpError
from fhir_secondop.fhir.codec import parse
from fhir_secondop.fhir.validate import validate
from tests.conformance import corpus, invented, others, own
from tests.conformance.cases import Case
from tests.conformance.reasons import Reason, reason_of
from tests.conformance.verdicts import Verdict


@dataclass(frozen=True)
class Compared:
    """A case with both verdicts; `issues`: our errors."""

    case: Case
    theirs: Verdict
    issues: tuple[Issue, ...]

    @property
    def agree(self) -> bool:
        return self.theirs.valid == (not self.issues)

    @property
    def reason(self) -> Reason | None:
        """Why the two differ, where that is known."""
        return reason_of(self.case, self.theirs, self.issues)


@dataclass
class Row:
    """What is counted of a kind."""

    cases: int = 0
    agree: int = 0
    only_theirs: int = 0
    only_ours: int = 0
    explained: int = 0

    @property
    def share(self) -> float:
        """Of 100; rounded down, so that 100.0 means all."""
        return self.agree * 1000 // self.cases / 10


@dataclass
class Agreement:
    """The counts by kind, the disagreements, the cases of which HL7's validator says nothing, and those that it was
    never asked about: ours that have changed since."""

    rows: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    differing: list[Compared] = field(default_factory=list)
    broke: list[Case] = field(default_factory=list)
    unasked: list[Case] = field(default_factory=list)

    @property
    def total(self) -> Row:
        rows = self.rows.values()
        return Row(*(sum(getattr(r, name) for r in rows) for name in Row.__dataclass_fields__))

    def add(self, compared: Compared) -> None:
        if compared.theirs.broke:
            self.broke.append(compared.case)
            return
        row = self.rows[compared.case.kind]
        row.cases += 1
        if compared.agree:
            row.agree += 1
            return
        self.differing.append(compared)
        row.only_ours += compared.theirs.valid
        row.only_theirs += not compared.theirs.valid
        row.explained += compared.reason is not None


def ours(case: Case) -> tuple[Issue, ...]:
    """Our errors in a case."""
    try:
        resource = parse(case.text.encode("utf-8", "surrogatepass"))
    except SecondOpError as refused:
        return refused.issues
    return tuple(i for i in validate(resource, profiles=case.profiles) if i.severity in ("error", "fatal"))


def whole_corpus(shared_data: Path, verdicts: Mapping[str, Verdict]) -> Iterator[Case]:
    """Every case, in order. The verdicts say which official examples are sound, and may be mutated."""
    examples = corpus.examples(shared_data)
    yield from corpus.official(examples)
    yield from mutated(examples, verdicts)
    yield from others.cases(shared_data)
    yield from own.cases()


def mutated(examples: list[corpus.Example], verdicts: Mapping[str, Verdict]) -> Iterator[Case]:
    again = corpus.repaired(examples)
    made = invented.examples()
    bases = {case.name: case for case in corpus.official([*examples, *again, *made])}
    yield from (Case("harmless: repaired example", e.name, e.text) for e in again)
    yield from (Case("harmless: invented example", e.name, e.text, True) for e in made)
    sound = {name for name, case in bases.items() if verdicts[case.hash].word == "valid"}
    yield from corpus.mutations([*examples, *again], sound)


def agreement(cases: Iterable[Case], verdicts: Mapping[str, Verdict]) -> Agreement:
    """The counts. Raises KeyError of an example or mutation that the table lacks: then it has to be made again."""
    counted = Agreement()
    for case in cases:
        if case.kind in own.KINDS and case.hash not in verdicts:
            counted.unasked.append(case)
        else:
            counted.add(Compared(case, verdicts[case.hash], ours(case)))
    return counted


def grouped(differing: Iterable[Compared]) -> list[tuple[str, list[Compared]]]:
    """The disagreements by the rule, most frequent first."""
    groups: dict[str, list[Compared]] = defaultdict(list)
    for each in differing:
        for rule in _rules(each):
            groups[rule].append(each)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _rules(each: Compared) -> list[str]:
    if each.theirs.valid:
        first = each.issues[0]
        return [f"only ours: {first.code}: {first.diagnostics[:100]}"]
    return [f"only HL7's: {error}" for error in each.theirs.errors]


def variants(found: Iterable[Compared]) -> Counter[str]:
    """How a group's cases were made."""
    return Counter(" / ".join(each.case.name.split(" / ")[:2]) for each in found)
