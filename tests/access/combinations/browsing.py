"""Pages, forms and links."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

from tests.access.combinations.asked import Asked
from tests.access.combinations.model import EVERYONE, ROUTES, Combination, Plain
from tests.access.stage import NOBODY, Held
from tests.web.pages.visitors import COOKIE


class Browsing(Asked):
    """Pages, forms and links."""

    def _paths(self, kind: str) -> Iterator[tuple[str, str, Held, str]]:
        """(who, path, one of its resources, name of the case) for each page or form of the program."""
        for rule, said in ROUTES.items():
            if kind not in said.split(", ") or rule in ("/", "/my"):
                continue
            for name, case_id in self.stage.cases.items():
                mine = [h for h in self.stage.held if h.zone.startswith(name)]
                tasks = [h for h in mine if h.stored.type == "Task"]
                files = [h for h in mine if h.stored.type in ("DocumentReference", "DiagnosticReport", "Binary")]
                for place, who in enumerate(EVERYONE):
                    for held in (files if "<kind>" in rule else tasks)[place % 3 :: 9][:3]:
                        path = rule.replace("<case_id>", case_id).replace("<task_id>", held.stored.id)
                        path = path.replace("<kind>", held.stored.type).replace("<resource_id>", held.stored.id)
                        for code in ("alignment", "sign", "gather") if "<code>" in path else ("",):
                            path = path.replace("<int:place>", "0").replace("<int:version>", "1")
                            yield who, path.replace("<code>", code), held, name

    def browse(self, who: str, method: str, path: str, form: Plain | None = None) -> tuple[int, str]:
        cookie = {} if who == NOBODY else {"Cookie": f"{COOKIE}={who}"}
        answer = self.stage.pages.open(path, method=method, data=form, headers=cookie)
        return answer.status_code, answer.get_data().decode("utf-8", "replace")

    def _pages(self) -> Iterator[Combination]:
        for who in EVERYONE:
            for path in ("/", "/my", "/connections", "/learned", "/learned.csv", "/learned/loop.svg"):
                yield Combination(who, f"GET {path}", self._browsing(who, path))
        for who, path, held, name in self._paths("page"):
            # Whom a page of a case shows nothing, it shows nothing whatever is named with it.
            zone = held.zone if held.stored.id in path else name
            yield Combination(who, f"GET {path}", self._browsing(who, path, self.stage.sees(who, zone), zone))

    def _browsing(self, who: str, path: str, sees: bool = True, zone: str = "") -> Callable[[], str]:
        def ask() -> str:
            status, text = self.browse(who, "GET", path)
            wrong = self.spilled(who, text) or (f"it answers {status}" if status >= 500 else "")
            if who == NOBODY:
                return wrong or ("" if status == 303 and "/sign-in?next=" in text else f"it answers {status}")
            if not sees and status < 300:
                return f"it answers {status} about {zone}"
            return wrong

        return ask

    def _forms(self) -> Iterator[Combination]:
        for who, path, _, name in self._paths("form"):
            if who == NOBODY or not self.stage.sees(who, name):
                yield Combination(who, f"POST {path}", self._posting(who, path))
            else:
                yield Combination(who, f"POST {path}", self._posting(who, path, csrf="forged"))

    def _posting(self, who: str, path: str, csrf: str = "") -> Callable[[], str]:
        def ask() -> str:
            before = self._rows()
            status, text = self.browse(who, "POST", path, {"csrf": csrf or f"token-of-{who}", "reason": "x"})
            if self._rows() != before:
                return f"it wrote, answering {status}"
            return self.spilled(who, text) or ("" if status in (303, 403, 404, 422) else f"it answers {status}")

        return ask

    def _links(self) -> Iterator[Combination]:
        """A link opens what it is for, to whoever has it; anything made up, cut or of another purpose opens nothing."""
        for path, token in self.stage.links.items():
            for n, bad in enumerate(_bent(token)):
                for where in ("/ack/{}", "/ack/{}/document.pdf", "/ack/{}/report.json", "/upload/{}"):
                    if where.startswith(path) and bad == token:
                        continue  # what it is for
                    who = list(EVERYONE)[n % len(EVERYONE)]
                    yield self._one(NOBODY if n % 2 else who, "GET", where.format(quote(bad, safe="")), False)


def _bent(token: str) -> Iterator[str]:
    yield token  # of the other purpose
    for place in range(0, len(token), 3):
        yield token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    for cut in (1, 4, len(token) // 2):
        yield token[:-cut]
    yield from (token + "A", token[::-1], token.upper(), "x", "..", "%00", "' or 1=1 --")
