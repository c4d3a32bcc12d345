"""Agreement in words: what the command prints, and the tables of docs/conformance.md."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.conformance.agreement import Agreement, Compared, Row, grouped, variants
from tests.conformance.reasons import REASONS

PAGE = Path(__file__).parents[2] / "docs/conformance.md"
HEAD = "| Kind of case | Cases | Agree | % | Only HL7 refuses | Only ours refuses | Explained |\n" + "|---" * 7 + "|"
_ROW = re.compile(r"^\| ([^|]+) \| (\d+) \| (\d+) \| ([\d.]+) \|", re.MULTILINE)


def table(counted: Agreement) -> str:
    rows = [_line(kind, row) for kind, row in sorted(counted.rows.items())]
    return "\n".join([HEAD, *rows, _line("All", counted.total)])


def _line(kind: str, row: Row) -> str:
    share = f"{row.share:.1f}"
    cells = (kind, row.cases, row.agree, share, row.only_theirs, row.only_ours, row.explained)
    return "| " + " | ".join(map(str, cells)) + " |"


def said(page: str) -> dict[str, tuple[int, int]]:
    """kind → (cases, agreeing) as the page has them."""
    return {found[1]: (int(found[2]), int(found[3])) for found in _ROW.finditer(page)}


def disagreements(counted: Agreement) -> str:
    """What has no reason yet, by rule, then what has one."""
    open_ones = [each for each in counted.differing if each.reason is None]
    lines = [f"\n{len(open_ones)} disagreements without a reason, {len(counted.differing) - len(open_ones)} with one;"
             f" of {len(counted.broke)} cases HL7's validator says nothing: it broke down; of"
             f" {len(counted.unasked)} cases of ours it was not asked (--live)."]  # fmt: skip
    for rule, found in grouped(open_ones):
        lines.append(f"\n{len(found)} × {rule}")
        lines += [f"    {count} {how}" for how, count in variants(found).most_common(4)]
        lines.append(f"    e.g. {_example(found[0])}")
    lines.append("\nWith a reason:")
    lines += [f"{len(found):5} {name}" for name, found in explained(counted).items()]
    return "\n".join(lines)


def _example(each: Compared) -> str:
    place = f"{each.issues[0].expression}: {each.issues[0].diagnostics}" if each.issues else ""
    return f"{each.case.name} {place}"


def listed(counted: Agreement) -> str:
    return "\n".join(map(_listed, counted.differing))


def _listed(each: Compared) -> str:
    issues = "; ".join(f"{issue.expression} {issue.diagnostics}" for issue in each.issues)
    who, why = "ours" if each.theirs.valid else "HL7", each.reason.name if each.reason else ""
    return "\t".join((who, each.case.name, ",".join(each.theirs.errors), issues, why))


def explained(counted: Agreement) -> dict[str, list[Compared]]:
    """The disagreements that have a reason, by its name, in the order of the reasons."""
    groups: dict[str, list[Compared]] = defaultdict(list)
    for each in counted.differing:
        if reason := each.reason:
            groups[reason.name].append(each)
    return {reason.name: groups[reason.name] for reason in REASONS if reason.name in groups}


def write(version: str, counted: Agreement) -> None:
    """Puts the numbers between the marks of the page."""
    page = PAGE.read_text("utf-8")
    total = counted.total
    open_ones = [each for each in counted.differing if each.reason is None]
    summary = (
        f"{version}: {total.agree} of {total.cases} verdicts agree ({total.share:.1f} %); {total.explained} of the"
        f" {total.cases - total.agree} others have a reason below. Of {len(counted.broke)} more it says nothing.\n\n"
    )
    page = _between(page, "agreement", summary + table(counted))
    page = _between(page, "reasons", _reasons(counted))
    page = _between(page, "open", "\n".join(_open(rule, found) for rule, found in grouped(open_ones)) or "None.")
    PAGE.write_text(page, "utf-8")


def _reasons(counted: Agreement) -> str:
    found = explained(counted)
    head = "| Cases | What | Whose verdict we hold | Why |\n|---|---|---|---|"
    rows = [f"| {len(found[r.name])} | {r.name} | {r.side} | {r.text} |" for r in REASONS if r.name in found]
    return "\n".join([head, *rows])


def _open(rule: str, found: list[Compared]) -> str:
    made = ", ".join(f"{how} ({count})" for how, count in variants(found).most_common(3))
    return f"- {len(found)} × {rule}: {made}"


def _between(page: str, mark: str, text: str) -> str:
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"
