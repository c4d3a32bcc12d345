"""The connections: alerts, each EHR with what waits for it, and on demand what it allows us. Nothing of any patient."""

from __future__ import annotations

from flask import Blueprint, Response, redirect
from flask.typing import ResponseReturnValue

from fhir_secondop.access import rights
from fhir_secondop.ehr import doctor
from fhir_secondop.errors import NotFound
from fhir_secondop.fhir import times
from fhir_secondop.service import queues
from fhir_secondop.service.alerts import plain, watch
from fhir_secondop.web.pages.frame import Frame


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /connections and /connections/{name}, and the acknowledgement of an alert."""

    @routes.get("/connections")
    def list_() -> Response:
        found = queues.of_connections(frame.context, frame.caller)
        alerts = [plain.of_alert(*row) for row in watch.listed(frame.context, frame.caller)]
        return frame.page("connections", queues=found, connections=frame.context.connections, alerts=alerts)

    @routes.post("/alerts/<alert_id>/acknowledge")
    def acknowledge(alert_id: str) -> ResponseReturnValue:
        watch.acknowledge(frame.context, frame.caller, alert_id)
        return redirect("/connections?done=acknowledge-alert", 303)

    @routes.post("/connections/<name>")
    def examine(name: str) -> Response:
        rights.require_role(frame.caller, "operator")
        connection = frame.context.connections.get(name)
        if connection is None:
            raise NotFound("There is no such connection.")
        today = times.moment(frame.context.now()).date()
        found = doctor.examine(frame.context.client(name), today)
        return frame.page("connection", connection=connection, found=found.as_plain())
