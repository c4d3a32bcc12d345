"""What a store with many cases costs who looks: a small store and a large one, each behind a server of its own.

  page         the work list (/), as coordinator, as a provider and a reviewer who have a hundredth of the cases
  needing      the list of what is held, as coordinator;  ended: of what is aligned
  list         GET /api/second-opinions, by the same three
  board        $alignment of a signed case;  events: of it;  case: its page
  connections  the page of the connections, as operator
  waiting      everything open at each EHR, which alerts and metrics look at
  following    the index of the cases brought up to date when there is nothing new
  reminders    one turn of the reminders
  requeue      jobs made anew from the Tasks at a start, when they are there already
  carry-on     the look for lost ones, every 10 minutes
  start        `serve` until it answers

Asked in turn of both, `--repeat` times, over one connection each. Printed are median and 95th percentile in ms, and the
ratio of the medians; most of what a request costs does not depend on the store.

Example: python benchmarks/cases.py --cases 100000 --database postgresql
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import crowd
import requests
import rig

from fhir_secondop.model import Connection
from fhir_secondop.service import case_states, reminders, takeover, waiting, workflows
from fhir_secondop.service.context import Context
from fhir_secondop.service.requeue import carry_on, requeue
from fhir_secondop.store.database import Database, now_ms
from fhir_secondop.store.sessions import Sessions

PEOPLE = {
    "coordinator": ("coordinator", ()),
    "provider": ("provider", (f"{rig.NPI}|{crowd.PROVIDER}",)),
    "reviewer": ("reviewer", (f"{rig.NPI}|{crowd.REVIEWER}",)),
    "operator": ("operator", ()),
}
TOKENS = {"coordinator": "desk", "provider": "provider", "reviewer": "reviewer"}
DAY_S = 86_400


@dataclass
class Store:
    """One of the two, and what may be asked of it: name → an act that is timed."""

    cases: int
    acts: dict[str, Callable[[], Any]]
    start_s: float
    requeued: int  # jobs that were made anew
    requeue_s: float


def _people(folder: Path) -> None:
    lines = [
        line
        for who, (role, parties) in PEOPLE.items()
        for line in (f"[people.{who}]", f'subject = "https://id.example|{who}"', f'roles = ["{role}"]',
                     f"parties = {json.dumps(list(parties))}")
    ]  # fmt: skip
    (folder / "people.toml").write_text("\n".join(lines))


@contextmanager
def store(
    folder: Path, at: Sequence[Connection], url: str, cases: int, of: Sequence[crowd.Template]
) -> Iterator[Store]:
    """A store of so many cases and its server. The jobs of what is open are made before anything is timed."""
    folder.mkdir(exist_ok=True)
    _people(folder)
    making = rig.service(folder, at, url)
    took, kinds = rig.timed(lambda: crowd.fill(making.parts.context.database, of, cases))
    rig.say(f"{cases} cases in {took:.0f} s: {kinds}")
    case = crowd.walk(making, at, "unread", "70000010")
    making.close()
    service = rig.service(folder, at, url, kept=False)
    context = service.parts.context
    workflows.prepare(context.database)
    live = partial(takeover.live, _client(context.database))
    made_s, requeued = rig.timed(lambda: requeue(context, live))
    rig.say(f"  {requeued} jobs made anew in {made_s:.1f} s")
    with ExitStack() as stack:
        people = str(folder / "people.toml")
        serving = rig.served(folder, at, url, options=["--no-work"], people_file=people)
        start_s, (base, _) = rig.timed(lambda: stack.enter_context(serving))
        yield Store(cases, _acts(context, base, case, live), start_s, requeued, made_s)
    service.close()


def _client(database: Database) -> Any:
    from dbos import DBOSClient

    return DBOSClient(system_database_engine=database.engine, application_name=workflows.APPLICATION, lazy=True)


def _acts(context: Context, base: str, case: str, live: Any) -> dict[str, Callable[[], Any]]:
    session = requests.Session()
    sessions = Sessions(context.database, now_ms, 1000 * DAY_S, 1000 * DAY_S)
    cookies = {who: sessions.begin(who, "oidc", f"https://id.example|{who}", now_ms() // 1000) for who in PEOPLE}

    def page(who: str, path: str) -> Callable[[], Any]:
        return lambda: _ok(session.get(base + path, cookies={"secondop": cookies[who]}, allow_redirects=False))

    def api(who: str, path: str) -> Callable[[], Any]:
        url, headers = f"{base}/api/second-opinions{path}", {"Authorization": f"Bearer {TOKENS[who]}"}
        return lambda: _ok(session.get(url, headers=headers))

    def look() -> Any:
        with context.database.reading() as connection:
            return waiting.of_all(connection, context)

    return {
        **{f"page, {who}": page(who, "/") for who in TOKENS},
        "needing": page("coordinator", "/?need=hand-over"),
        "ended": page("coordinator", "/?stage=aligned"),
        **{f"list, {who}": api(who, "") for who in TOKENS},
        "board": api("coordinator", f"/{case}/alignment"),
        "case": page("coordinator", f"/cases/{case}"),
        "events": api("coordinator", f"/{case}/events"),
        "connections": page("operator", "/connections"),
        "waiting": look,
        "following": lambda: case_states.follow(context),
        "reminders": lambda: reminders.act(context),
        "requeue": lambda: requeue(context, live),
        "carry-on": lambda: carry_on(context, live),
    }


def _ok(answer: requests.Response) -> requests.Response:
    if answer.status_code != 200:
        raise SystemExit(f"{answer.url} answered {answer.status_code}: {answer.text[-900:]}")
    return answer


def measure(stores: Sequence[Store], repeat: int, only: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Act → store → median and 95th percentile in ms; interleaved."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in stores[0].acts:
        if only and name.partition(",")[0] not in only:
            continue
        runs: dict[int, list[float]] = {each.cases: [] for each in stores}
        for each in stores:
            each.acts[name]()  # the first time statements are compiled, and pages come from the disk
        for _ in range(repeat):
            for each in stores:
                runs[each.cases].append(1000 * rig.timed(each.acts[name])[0])
        found[name] = {str(cases): {"median_ms": rig.median(times), "p95_ms": rig.percentile(times, 0.95)}
                       for cases, times in runs.items()}  # fmt: skip
        rig.say(f"  {name}: " + ", ".join(f"{by['median_ms']:.0f} ms" for by in found[name].values()))
    return found


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=100, help="cases of the store that it is held against")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--only", default="", help="board,page,… of the names above")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-cases-")))
        at = stack.enter_context(crowd.ehrs(folder))
        new = stack.enter_context(rig.databases(chosen.database, folder))
        of = crowd.templates(folder, at)
        stores = [stack.enter_context(store(folder / str(n), at, new(), n, of)) for n in (chosen.few, chosen.cases)]
        found = measure(stores, chosen.repeat, [name for name in chosen.only.split(",") if name])
        starts = {str(each.cases): {"start_s": each.start_s, "jobs": each.requeued, "jobs_s": each.requeue_s}
                  for each in stores}  # fmt: skip
    if chosen.json:
        print(json.dumps({"database": chosen.database, "measured": found, "starts": starts}, indent=1))
        return
    few, many = str(chosen.few), str(chosen.cases)
    rows = [[name, by[few]["median_ms"], by[many]["median_ms"], by[many]["p95_ms"],
             by[many]["median_ms"] / by[few]["median_ms"]] for name, by in found.items()]  # fmt: skip
    began = [starts[each]["start_s"] for each in (few, many)]
    rows.append(["start", 1000 * began[0], 1000 * began[1], "", began[1] / began[0]])
    print(f"{starts[many]['jobs']} jobs made anew in {starts[many]['jobs_s']:.1f} s\n")
    print(rig.table(["", f"{few} cases, ms", f"{many} cases, ms", "p95", "ratio"], rows))


if __name__ == "__main__":
    main()
