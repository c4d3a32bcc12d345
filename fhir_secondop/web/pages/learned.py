"""What was learned: a page with plots and tables, and the same as CSV. Numbers only, and none of a few."""

from __future__ import annotations

from flask import Blueprint, Response

from fhir_secondop.errors import NotFound
from fhir_secondop.opinion.learned import CLOCKS, MEASURES, Group, as_csv
from fhir_secondop.service.learned import Learned
from fhir_secondop.web.pages import plots, words
from fhir_secondop.web.pages.frame import Frame
from fhir_secondop.web.pages.plots import Bar

DAYS = "turnaround"


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /learned, /learned.csv and the plots."""
    numbers = Learned(frame.context)

    @routes.get("/learned")
    def learned() -> Response:
        return frame.page("learned", groups=numbers.groups(frame.caller), measures=MEASURES, clocks=CLOCKS)

    @routes.get("/learned.csv")
    def learned_csv() -> Response:
        text = as_csv(numbers.groups(frame.caller))
        named = {"Content-Disposition": "attachment; filename=learned.csv"}
        return Response(text, content_type="text/csv; charset=utf-8", headers=named)

    @routes.get("/learned/<measure>.svg")
    def learned_plot(measure: str) -> Response:
        groups = numbers.groups(frame.caller)
        if measure == DAYS:
            drawn = plots.stacked(words.MEASURES[DAYS], [b for g in groups for b in _turnaround(g)], ["median"])
        elif measure in MEASURES:
            categories = MEASURES[measure]
            bars = [_bar(group, measure) for group in groups if isinstance(group.size, int)]
            drawn = plots.stacked(words.MEASURES[measure], bars, [words.of(words.CATEGORIES, c) for c in categories])
        else:
            raise NotFound("There is no such plot.")
        return Response(drawn, content_type="image/svg+xml")


def _bar(group: Group, measure: str) -> Bar:
    parts = tuple(
        (place, words.of(words.CATEGORIES, category), number)
        for place, category in enumerate(MEASURES[measure])
        if isinstance(number := group.counts[measure][category], int)
    )
    return Bar(group.name or "all", int(group.size), parts, str(group.size))


def _turnaround(group: Group) -> list[Bar]:
    """The median of each clock; the grey behind it goes to the 90th percentile."""
    return [
        Bar(f"{group.name or 'all'}, {words.MEASURES[clock].lower()}", ninth, ((0, "median", median),),
            f"{median}; 90 % in {ninth}")
        for clock in CLOCKS
        if clock in group.days
        for median, ninth in [group.days[clock]]
    ]  # fmt: skip
