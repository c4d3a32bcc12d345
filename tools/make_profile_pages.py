"""Makes docs/profiles: a page for each profile, and one each for codes, value sets, concept maps and operations.

    python -m tools.make_profile_pages

All of it from profiles/ and the table of operations; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fhir_secondop.cli import package
from fhir_secondop.fhir import definitions

PAGES = Path(__file__).parent.parent / "docs" / "profiles"
OR = " \\| "  # in a table
WIDTH = 100
Json = dict[str, Any]


def main() -> None:
    """Every page anew; what no longer belongs there goes."""
    made = pages()
    PAGES.mkdir(exist_ok=True)
    for file in PAGES.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {PAGES.name}")


def pages() -> dict[str, str]:
    """File → its text."""
    book = Book()
    made = {"README.md": book.index(), "codes.md": book.codes(), "value-sets.md": book.value_sets(),
            "operations.md": book.operations()}  # fmt: skip
    made |= {f"{each['id']}.md": book.profile(each) for each in book.of("StructureDefinition")}
    return {name: "\n".join(lines).rstrip() + "\n" for name, lines in made.items()}


class Book:
    """What is defined, and who uses what."""

    def __init__(self) -> None:
        self.resources = list(package.contents())
        self.examples = list(package.examples())
        self.by_url = {each["url"]: each for each in self.resources}

    def of(self, kind: str) -> list[Json]:
        return sorted((each for each in self.resources if each["resourceType"] == kind), key=lambda each: each["id"])

    def index(self) -> list[str]:
        """One line each."""
        profiles = [each for each in self.of("StructureDefinition") if each["type"] != "Extension"]
        extensions = [each for each in self.of("StructureDefinition") if each["type"] == "Extension"]
        return [
            "# Profiles, codes and operations",
            "",
            "What others need to write and read our resources, on FHIR R4 (4.0.1): the content of the"
            " [package](../package.md). Where we add nothing to R4's words for an element, they stand here."
            " Made by `tools/make_profile_pages.py`.",
            "",
            "[Codes](codes.md) · [Value sets](value-sets.md) · [Operations](operations.md)",
            "",
            "## Profiles",
            "",
            "| Profile | On | What |",
            "|---|---|---|",
            *(f"| [{each['id']}]({each['id']}.md) | {each['type']} | {cell(each['description'])} |"
              for each in profiles),
            "",
            "## Extensions",
            "",
            "| Extension | On | Value | What |",
            "|---|---|---|---|",
            *(f"| [{each['id']}]({each['id']}.md) | {', '.join(self.contexts(each))} | {self.carries(each)} "
              f"| {cell(each['description'])} |" for each in extensions),
        ]  # fmt: skip

    @staticmethod
    def contexts(extension: Json) -> list[str]:
        return [context["expression"] for context in extension.get("context", ())]

    def carries(self, extension: Json) -> str:
        """The type of a simple extension, the parts of a complex one."""
        elements = extension["snapshot"]["element"]
        inside = (each for each in elements if each["path"] == "Extension.extension")
        parts = [each["sliceName"] for each in inside if "sliceName" in each]
        value = next(each for each in elements if each["id"] == "Extension.value[x]")
        return ", ".join(parts) if parts else self.types(value)

    def profile(self, profile: Json) -> list[str]:
        """Purpose, elements, rules, an example."""
        base = profile["baseDefinition"]
        parent = f"[{base.rpartition('/')[2]}]({base.rpartition('/')[2]}.md)" if base in self.by_url else ""
        where = [f"On {profile['type']}"] if profile["type"] != "Extension" else []
        where += [f"On {', '.join(self.contexts(profile))}"] if self.contexts(profile) else []
        where += [f"all of {parent} too"] if parent else []
        where += ["abstract: one of those based on it is used"] if profile["abstract"] else []
        used = [f"[{each['id']}]({each['id']}.md)" for each in self.users(profile["url"])]
        where += [f"used in {', '.join(used)}"] if used else []
        text = [f"# {profile['title']}", "", profile["description"], "", f"`{profile['url']}`", ""]
        text += ["; ".join(where)[0].upper() + "; ".join(where)[1:] + ".", ""] if where else []
        text += ["| Element | Count | Type | Value | What it means |", "|---|---|---|---|---|"]
        text += self.rows(profile)
        return [*text, *self.rules(profile), *self.example(profile)]

    def users(self, url: str) -> Iterator[Json]:
        for each in self.of("StructureDefinition"):
            types = [t for element in each["differential"]["element"] for t in element.get("type", ())]
            if each["baseDefinition"] == url or any(url in t.get("profile", ()) for t in types):
                yield each

    def said(self, profile: Json) -> Iterator[Json]:
        """The snapshot's elements that this profile, or one of ours below it, says something of."""
        named: set[str] = set()
        definition: Mapping[str, Any] | None = profile
        while definition:
            named |= {each["id"] for each in definition["differential"]["element"]}
            definition = definitions.profile(definition["baseDefinition"])
        for each in profile["snapshot"]["element"][1:]:
            # Where a slicing is all that is said, the slices say it.
            only_sliced = "slicing" in each and not each["min"]
            if each["id"] in named and not only_sliced:
                yield each

    def rows(self, profile: Json) -> Iterator[str]:
        """The table: of an extension its value, or its parts; else each element, by its id below the root."""
        elements = {each["id"]: each for each in self.said(profile)}
        if profile["type"] != "Extension":
            yield from (self.row(name.partition(".")[2], each, each) for name, each in elements.items())
        elif elements["Extension.value[x]"]["max"] != "0":
            yield self.row("value[x]", elements["Extension.value[x]"], elements["Extension.value[x]"])
        else:
            for name, part in elements.items():
                if value := elements.get(f"{name}.value[x]"):
                    yield self.row(name.rpartition(":")[2], part, value)

    def row(self, name: str, element: Json, value: Json) -> str:
        """Name and count of one element, type and value of another: an extension's part has its value in itself."""
        if element["max"] == "0":
            return f"| `{name}` | 0..0 | | | Must not be there |"
        count = f"{element['min']}..{element['max']}"
        return f"| `{name}` | {count} | {self.types(value)} | {self.value(value)} | {cell(self.meaning(element))} |"

    def types(self, element: Json) -> str:
        """CodeableConcept, Reference(Patient), an extension of ours by its page."""
        if "contentReference" in element:
            return "as " + element["contentReference"].rpartition("#")[2]
        shown = []
        for each in element.get("type", ()):
            code = each["code"].rpartition("/")[2].removeprefix("System.")
            targets = [url.rpartition("/")[2] for url in each.get("targetProfile", ())]
            profiles = each.get("profile", ())
            if profiles:
                shown += [self.page(url) for url in profiles]
            elif targets and targets != ["Resource"] and len(targets) < 6:
                shown.append(f"{code}({OR.join(targets)})")
            else:
                shown.append(code)
        return OR.join(shown) if len(shown) < 5 else "any type"

    def page(self, url: str) -> str:
        """A profile by its name, with its page where it is one of ours."""
        name = url.rpartition("/")[2]
        return f"[{name}]({name}.md)" if url in self.by_url else name

    def value(self, element: Json) -> str:
        """What is fixed, or the codes that are allowed."""
        for key, value in element.items():
            if key.startswith(("fixed", "pattern")):
                codings = value.get("coding", ()) if isinstance(value, dict) else ()
                return " + ".join(self.coded(each) for each in codings) or f"`{value}`"
        binding = element.get("binding", {})
        url = binding.get("valueSet", "").partition("|")[0]
        if url not in self.by_url:
            return ""
        name = url.rpartition("/")[2]
        how = "" if binding["strength"] == "required" else f" ({binding['strength']})"
        return f"[{name}](value-sets.md#{name}){how}"

    def coded(self, coding: Json) -> str:
        return f"{self.system(coding['system'])} `{coding['code']}`"

    def system(self, url: str) -> str:
        name = url.rpartition("/")[2]
        return f"[{name}](codes.md#{name})" if url in self.by_url else name

    def meaning(self, element: Json) -> str:
        """Our own sentence, or R4's."""
        # R4 speaks of the groups and devices, too, that a subject could be.
        if self.types(element) == "Reference(Patient)":
            return "The patient"
        for each in element.get("type", ()):
            for url in each.get("profile", ()):
                if url in self.by_url:
                    return str(self.by_url[url]["description"])
        # R4 lists the codes of a code there; and what it says of an extension says nothing of this one.
        short = str(element["short"])
        return "" if " | " in short or short == "Additional content defined by implementations" else short

    def rules(self, profile: Json) -> list[str]:
        own = [
            (element, constraint)
            for element in profile["snapshot"]["element"]
            for constraint in element.get("constraint", ())
            if constraint["key"].startswith("so-") and constraint.get("source") in self.by_url
        ]
        if not own:
            return []
        lines = []
        for element, constraint in own:
            where = f" ({element['id']})" if "." in element["id"] else ""
            lines.append(f"* **{constraint['key']}**{where}: {constraint['human']}.")
        return ["", "## Rules", "", *lines]

    def example(self, profile: Json) -> list[str]:
        """The one of its name, and the names of all; of an extension the fullest, alone."""
        found = sorted((each for each in self.examples if self.has(each, profile)), key=lambda each: str(each["id"]))
        if not found:
            return []
        shown: Json = next((each for each in found if each["id"] == profile["id"]), found[0])
        if profile["type"] == "Extension":
            inside = [part for each in found for part in everything(each) if part.get("url") == profile["url"]]
            shown = max(inside, key=lambda each: len(each.get("extension", ())))
        names = [f"[{each['id']}](../../profiles/examples/{each['id']}.json)" for each in found]
        return ["", "## Example", "", "```json", pretty(shown), "```", "", f"In {', '.join(names)}."]

    def has(self, example: Json, profile: Json) -> bool:
        if profile["type"] == "Extension":
            return any(each.get("url") == profile["url"] for each in everything(example))
        claims = example.get("meta", {}).get("profile", ())
        return any(url == profile["url"] or self.by_url[url]["baseDefinition"] == profile["url"] for url in claims)

    def codes(self) -> list[str]:
        """A table for each code system, then the maps between them."""
        lines = ["# Codes", "", "Our code systems; the value sets that choose from them are [here](value-sets.md)."]
        for each in self.of("CodeSystem"):
            lines += ["", f"## {each['id']}", "", f"{each['description']} `{each['url']}`", ""]
            lines += ["| Code | Display | Definition |", "|---|---|---|"]
            lines += [f"| `{c['code']}` | {cell(c.get('display', ''))} | {cell(c.get('definition', ''))} |"
                      for c in each["concept"]]  # fmt: skip
        for each in self.of("ConceptMap"):
            lines += ["", f"## Map {each['id']}", "", f"{each['description']} `{each['url']}`"]
            for group in each["group"]:
                lines += ["", f"From {self.system(group['source'])} to {self.system(group['target'])}:", ""]
                lines += ["| From | To | How near | |", "|---|---|---|---|"]
                for element in group["element"]:
                    for target in element["target"]:
                        to = f"`{target['code']}`" if "code" in target else ""
                        row = (f"`{element['code']}`", to, target["equivalence"], cell(target.get("comment", "")))
                        lines.append(f"| {' | '.join(row)} |")
        return lines

    def value_sets(self) -> list[str]:
        lines = ["# Value sets", "", "What elements are bound to."]
        for each in self.of("ValueSet"):
            lines += ["", f"## {each['id']}", "", f"{each['description']} `{each['url']}`", ""]
            if "copyright" in each:
                lines += [f"*{each['copyright']}*", ""]
            for include in each["compose"]["include"]:
                lines += self.included(include)
        return lines

    def included(self, include: Json) -> Iterable[str]:
        for url in include.get("valueSet", ()):
            name = url.rpartition("/")[2]
            yield f"* all of [{name}](#{name})" if url in self.by_url else f"* all of `{url}`"
        if "system" not in include:
            return
        system = self.system(include["system"])
        concepts = include.get("concept", ())
        if not concepts:
            yield f"* all of {system}"
            return
        shown = [f"`{c['code']}` {c.get('display', '')}".rstrip() for c in concepts]
        yield f"* of {system}: {cell('; '.join(shown))}"

    def operations(self) -> list[str]:
        """What can be called, with its parameters."""
        lines = [
            "# Operations",
            "",
            "Each as FHIR, as plain JSON (`/docs` of a running service) and as a command (`fhir-secondop case`). A bold"
            " parameter must be sent; one with a `*` may repeat; what is in brackets are its parts.",
            "",
            "| Operation | Called on | What it does | Parameters |",
            "|---|---|---|---|",
        ]
        for each in self.of("OperationDefinition"):
            on = each["resource"][0] if "resource" in each else "[base]"
            on += "/[id]" if each["instance"] else ""
            sent = ", ".join(parameter(p) for p in each["parameter"] if p["use"] == "in")
            reads = "" if each["affectsState"] else " *Changes nothing.*"
            lines.append(f"| `${each['code']}` | {on} | {cell(each['description'])}{reads} | {sent} |")
        return lines


def parameter(said: Json) -> str:
    """A name, how often, and its parts."""
    name = f"**{said['name']}**" if said["min"] else said["name"]
    parts = f" ({', '.join(part['name'] for part in said['part'])})" if "part" in said else ""
    return name + ("" if said["max"] == "1" else "\\*") + parts


def everything(value: Any) -> Iterator[Json]:
    """Every object in a resource."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from everything(part)


def cell(text: str) -> str:
    """Text in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def pretty(value: Any, indent: int = 0) -> str:
    """JSON with what fits on a line on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list) or not value:
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {pretty(part, indent + 2)}" for key, part in value.items()]
    else:
        parts = [inner + pretty(part, indent + 2) for part in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(parts) + "\n" + " " * indent + closing


if __name__ == "__main__":
    main()
