"""The Flask application of the service, and the service started with its worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flask import Flask, Response, jsonify
from flask.typing import ResponseReturnValue

from fhir_secondop import bootstrap, meters, tracing
from fhir_secondop.config import Settings
from fhir_secondop.ehr import document_keys, keys
from fhir_secondop.rest import failures
from fhir_secondop.rest.app import blueprint, log_requests
from fhir_secondop.service import rounds, workflows
from fhir_secondop.service.requeue import requeue
from fhir_secondop.store import reindex
from fhir_secondop.web import (
    api,
    assets,
    audit,
    events,
    inbound,
    links,
    metering,
    metrics,
    oauth,
    openapi,
    operating,
    pages,
    spans,
    throttle,
    uploads,
    vitals,
)
from fhir_secondop.web.signin import SignIn


def create(service: bootstrap.Service, visitors: pages.SignIn | None = None) -> Flask:
    """The application of a service that was put together. `visitors` says who is at the pages, instead of sign-in."""
    app = Flask("fhir_secondop", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.endpoint.limits.max_body_bytes
    inbound.bound(app)
    log_requests(app)
    metering.install(app)
    spans.install(app, continues=service.settings.trace_callers == "continue")
    failures.handle(app, "application/json")
    app.register_blueprint(blueprint(service.endpoint), url_prefix="/fhir")
    if service.systems is not None:
        app.register_blueprint(oauth.blueprint(service.systems, service.endpoint, service.context.public_url))
    app.register_blueprint(api.blueprint(service), url_prefix="/api")
    app.register_blueprint(events.blueprint(service), url_prefix="/api")
    app.extensions[events.FOLLOWERS] = service.followers
    app.register_blueprint(operating.blueprint(service), url_prefix="/api")
    sign_in = SignIn(service.context, service.settings)
    app.register_blueprint(sign_in.blueprint())
    app.register_blueprint(assets.blueprint())
    app.register_blueprint(pages.blueprint(service, visitors or sign_in))
    app.register_blueprint(links.blueprint(service.context))
    app.register_blueprint(uploads.blueprint(service.context))
    app.register_blueprint(openapi.blueprint(service))
    app.register_blueprint(metrics.blueprint(service))

    @app.get("/.well-known/jwks.json")
    def published() -> ResponseReturnValue:
        # Read at each request: a key that was made or retired counts from now on.
        answer = jsonify(keys.public(file for file in service.key_files if file.exists()))
        answer.headers["Cache-Control"] = "public, max-age=3600"
        return answer

    @app.get("/.well-known/document-keys.json")
    def document_keys_() -> ResponseReturnValue:
        # No cache: who verifies wants to know of a revocation at once.
        answer = jsonify(document_keys.published(service.context.document_keys))
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    if service.context.public_url.startswith("https://"):

        @app.after_request
        def by_tls_alone(answer: Response) -> Response:
            # RFC 6797: from now on for a year the browser comes by TLS, whatever a link says.
            answer.headers["Strict-Transport-Security"] = "max-age=31536000"
            return answer

    @app.get("/healthz")
    def health() -> ResponseReturnValue:
        return jsonify({"status": "ok"})

    @app.get("/readyz")
    def ready() -> ResponseReturnValue:
        # A write lock taken and given back: reading alone would not show a full disk or a read-only primary.
        with service.context.database.transaction(bootstrap.LOCAL) as tx:
            tx.tick()
        return jsonify({"status": "ready", "pid": os.getpid()})

    audit.install(app, service)
    return app


SERVICE = "service"
"""What the worker inside a service is called."""


def _work(settings: Settings, executor: str) -> workflows.Settings:
    return workflows.Settings(
        executor=executor, gatherings_per_ehr=settings.gatherings_per_ehr,
        deliveries_per_ehr=settings.deliveries_per_ehr, polling_s=settings.polling_s,
        concurrency=settings.worker_concurrency, lease_s=settings.lease_s, drain_s=settings.drain_s,
        keep_days=settings.keep_jobs_days,
    )  # fmt: skip


@contextmanager
def _traced(settings: Settings) -> Iterator[None]:
    """Sends spans of this process, where that is configured; what is left goes out at the end."""
    if settings.otlp_endpoint:
        tracing.start(settings.otlp_endpoint, meters.place(), settings.trace_ratio)
    try:
        yield
    finally:
        tracing.stop()


@contextmanager
def working(settings: Settings, executor: str) -> Iterator[bootstrap.Service]:
    """A worker beside the service, under a name of its own: it pulls and delivers, and serves nothing.

    Raises Unavailable when another one has that name.
    """
    service = bootstrap.build(settings)
    database = service.context.database
    with (
        database.alone(executor),
        vitals.measured(database),
        _traced(settings),
        workflows.working(service.context, _work(settings, executor)),
    ):
        yield service
    service.context.database.dispose()


@contextmanager
def started(settings: Settings, *, works: bool = True) -> Iterator[Flask]:
    """The service of these settings with its embedded worker, stopped on the way out; without it for one more server
    process beside that one, or where other processes work.

    Raises Unavailable when another service works on the same database: it is to be started with --no-work.
    """
    service = throttle.remembering(bootstrap.build(settings))
    context = service.context
    with ExitStack() as stack:
        stack.enter_context(vitals.measured(context.database))
        stack.enter_context(_traced(settings))
        if works:
            stack.enter_context(context.database.alone())
            live = stack.enter_context(workflows.working(context, _work(settings, SERVICE)))
            stack.enter_context(reindex.beside(context.database, context.base_url))
            requeue(context, live)
        else:
            if not workflows.is_prepared(context.database):
                workflows.prepare(context.database)
            regular = rounds.Rounds(context, rounds.UNATTENDED)
            regular.start()
            stack.callback(regular.stop)
        flask = create(service)
        limits = throttle.Throttle(service, settings)
        audited = service.context.database.audit
        behind = inbound.complete(
            flask.wsgi_app, limits, settings.trusted_proxy, only=settings.is_exposed,
            refused=audited.refused if audited is not None else inbound.uncounted,
        )  # fmt: skip
        flask.wsgi_app = behind  # type: ignore[assignment, method-assign]
        yield flask
    service.context.database.dispose()
