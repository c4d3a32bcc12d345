"""One case of examples/ from the request to aligned providers, driven by its files.

Each act asks first what is there already, so a story that was cut off goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fhir_secondop.sandbox.actors import Person, acknowledge_by_link, wait

Plain = dict[str, Any]
COORDINATOR = "coordinator"
REVIEWER = "reviewer"


@dataclass(slots=True)
class Story:
    """A case on its way. `people` are by key of the request's providers, with "coordinator" and "reviewer".

    `silent` are the keys of providers who acknowledge nothing: a test shows that the board waits for them.
    """

    folder: Path
    people: dict[str, Person]
    say: Callable[[str], None] = print
    silent: frozenset[str] = frozenset()
    timeline: list[Plain] = field(default_factory=list)
    case_id: str = ""

    def file(self, name: str) -> Plain:
        """A file of the case."""
        loaded: Plain = json.loads((self.folder / name).read_text("utf-8"))
        return loaded

    def tell(self, text: str) -> None:
        """Says what has happened, and keeps it for the timeline."""
        self.timeline.append({"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), "what": text})
        self.say(text)

    @property
    def _desk(self) -> Person:
        return self.people[COORDINATOR]

    def _case(self) -> Plain:
        return self._desk.get(f"/{self.case_id}")

    def run(self) -> Plain:
        """Every act in turn; the board at the end."""
        self.request()
        self.gathered()
        self.review()
        self.delivered("report")
        self.respond()
        self.plan_of_record()
        board = self.board()
        self.tell("every provider is aligned" if board["case"]["aligned"] else "not everybody is aligned")
        return board

    def board(self) -> Plain:
        """The alignment board."""
        return self._desk.get(f"/{self.case_id}/alignment")

    def request(self) -> None:
        """The request comes in."""
        sent = self.file("request.json")
        opened = self._desk.post("", sent)
        self.case_id = opened["id"]
        self.tell(f"request {sent['placer']['value']} taken in as case {self.case_id}")

    def gathered(self) -> None:
        """The records come in from the EHRs."""

        def over() -> Plain | None:
            manifest = self._desk.get(f"/{self.case_id}/manifest")
            return manifest if not manifest["stillAsking"] else None

        manifest = wait("the records", over)
        for source in manifest["sources"]:
            self.tell(f"gathered {source['received']} resources from {source['source']}")
        items = self._desk.get(f"/{self.case_id}/completeness")["items"]
        there = ("present", "known-absent", "not-applicable")
        missing = [f"{item['title']} ({item['state']})" for item in items if item["state"] not in there]
        self.tell("missing from the record: " + (", ".join(missing) if missing else "nothing"))

    def review(self) -> None:
        """The reviewer accepts, writes, confirms the gaps and signs."""
        reviewer, script = self.people[REVIEWER], self.file("review.json")
        state = self._case()
        if state["status"] == "requested":
            self._desk.post(f"/{self.case_id}/ask-reviewer", {"reviewer": script["reviewer"]})
            body: Plain = {k: script[k] for k in ("declaration", "attestation") if k in script}
            reviewer.post(f"/{self.case_id}/accept", body)
            self.tell(f"{reviewer.name} accepted the review")
            state = self._case()
        if state["report"] is None:
            gaps = reviewer.get(f"/{self.case_id}/completeness")["gaps"]
            reviewer.post(f"/{self.case_id}/submit-report", {**script["draft"], "gapsConfirmed": gaps})
            self.tell("the draft is in")
            signed = reviewer.post(f"/{self.case_id}/sign", {})
            self.tell(f"{reviewer.name} signed version {signed['version']}")

    def delivered(self, what: str) -> None:
        """The deliveries of the newest version settle."""

        def settled() -> list[Plain]:
            tasks = [d for d in self._case()["deliveries"] if d["what"] == what]
            newest = max((d["version"] for d in tasks), default=0)
            mine = [d for d in tasks if d["version"] == newest]
            return mine if mine and all(d["status"] in ("completed", "on-hold", "failed") for d in mine) else []

        for task in wait(f"the deliveries of the {what}", settled):
            said = task["evidence"]
            self.tell(
                f"{what} version {task['version']} to {task['to']}: rung {said.get('rung', '-')}, "
                f"{task['businessStatus']}" + (", found there" if said.get("how") == "found there" else "")
            )

    def respond(self) -> None:
        """The doctors acknowledge and decide, each for itself."""
        script = self.file("responses.json")
        version = self._case()["report"]["version"]
        self._acknowledge(script, "report", version)
        for decision in script["decisions"]:
            if decision["provider"] in self.silent:
                continue
            body = {k: v for k, v in decision.items() if k != "provider"}
            person = self.people[decision["provider"]]
            person.post(f"/{self.case_id}/decide", {**body, "version": version})
            self.tell(f"{person.name} decided: {decision['decision']}")

    def _acknowledge(self, script: Plain, what: str, version: int) -> None:
        deliveries = [d for d in self._case()["deliveries"] if d["what"] == what and d["version"] == version]
        for answer in script["acknowledgements"]:
            if answer["provider"] in self.silent:
                continue
            person = self.people[answer["provider"]]
            if answer["by"] == "link":
                task = next(d for d in deliveries if d["to"] == person.name)
                sheet = self._desk.post(f"/{self.case_id}/cover-sheet", {"task": task["task"]})
                acknowledge_by_link(sheet["url"], answer["name"], answer["role"])
            else:
                person.post(f"/{self.case_id}/acknowledge", {"version": version, "what": what})
            self.tell(f"{person.name} acknowledged the {what} ({answer['by']})")

    def plan_of_record(self) -> None:
        """The decision owner sets the plan; it is delivered and acknowledged like the report."""
        script = self.file("responses.json")
        plan = script["planOfRecord"]
        if plan["by"] in self.silent:
            return
        version = self._case()["report"]["version"]
        body = {k: v for k, v in plan.items() if k != "by"}
        owner = self.people[plan["by"]]
        made = owner.post(f"/{self.case_id}/plan-of-record", {**body, "version": version})
        self.tell(f"{owner.name} set the plan of record")
        self.delivered("plan")
        self._acknowledge(script, "plan", made["version"])

    def amend(self) -> None:
        """The reviewer amends the report; every place that had any version gets the new one."""
        reviewer, script = self.people[REVIEWER], self.file("review.json")
        reviewer.post(f"/{self.case_id}/amend-report", script["amendment"])
        signed = reviewer.post(f"/{self.case_id}/sign", {})
        self.tell(f"{reviewer.name} signed version {signed['version']}")
        self.delivered("report")
