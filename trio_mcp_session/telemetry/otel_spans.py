"""Spans of requests, of questions and of tasks, and their propagation through ``_meta``.

The parent of a request's span comes from ``_meta`` (SEP-414), and otherwise it is the current span
where the request is received, such as that of an HTTP server. A handler runs with the span of its
request as the current one. What a client sends may be anything: it is given to the propagators of
the application, as far as it is text.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, final

import attrs
from opentelemetry import context as contexts, propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from ..core.identity import is_of_connection
from ..core.ids import short_hash
from ..core.instrumentation import TaskObserver
from ..core.task_info import TaskStatus
from ..protocol.jsonrpc import encode_json, is_object
from . import names
from .error_types import Fault, error_type_of_question, fault_of
from .network import client_of, network_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer, TracerProvider

    from ..core.identity import Principal
    from ..core.instrumentation import (
        QuestionDetails,
        QuestionOutcome,
        RequestDetails,
        RequestOutcome,
        TaskDetails,
        TaskOutcome,
    )

_OWN_SPAN: Final = contexts.create_key("trio_mcp_session.span")
"""The span of the library that a handler runs with. If it is not the current one, the handler has
opened spans of its own."""

DISTRIBUTION: Final = "trio-mcp-session"


def version() -> str | None:
    """Return the version of the library; None if it is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


@final
@attrs.frozen(eq=False)
class Spans:
    """Begins spans. No method is a checkpoint."""

    _tracer: Tracer
    _capture_content: bool

    @classmethod
    def of(cls, provider: TracerProvider, *, capture_content: bool) -> Spans:
        """Make them with a tracer of this provider."""
        return cls(provider.get_tracer(names.SCOPE, version()), capture_content)

    def of_request(self, details: RequestDetails) -> RequestSpan:
        """Begin the span of a request."""
        method = details.method if details.is_known else names.OTHER
        target = details.target
        # Samplers decide by these.
        attributes: dict[str, str] = {names.METHOD: method}
        name = method
        if target is not None and method in names.TARGETS:
            name = f"{method} {target}"
            attributes[names.TARGETS[method]] = target
        links: list[Link] | None = None
        context = contexts.get_current()
        carrier = _carrier_of(details.params)
        if carrier:
            ambient = trace.get_current_span(context).get_span_context()
            context = propagate.extract(carrier, context)
            parent = trace.get_current_span(context).get_span_context()
            if ambient.is_valid and parent != ambient:
                links = [Link(ambient)]
        span = self._tracer.start_span(
            name, context, kind=SpanKind.SERVER, attributes=attributes, links=links
        )
        if span.is_recording():
            self._describe(span, details)
        return RequestSpan(self, span, context, details)

    def _describe(self, span: Span, details: RequestDetails) -> None:
        scope = details.asgi_scope
        found: dict[str, str | int] = {
            **network_of(details.transport, scope),
            **client_of(details.transport, scope),
        }
        if details.request_id is not None:
            found[names.REQUEST_ID] = str(details.request_id)
        if details.protocol_version is not None:
            found[names.PROTOCOL_VERSION] = details.protocol_version
        transport = details.transport
        if details.session_id is not None and transport is not None and transport.name == "http":
            found[names.SESSION_ID] = _session(details.session_id, details.principal)
        if details.method in names.OF_RESOURCES and isinstance(details.params.get("uri"), str):
            found[names.RESOURCE_URI] = details.params["uri"]
        if details.method == "tools/call":
            found[names.OPERATION] = names.EXECUTE_TOOL
            if self._capture_content:
                found[names.ARGUMENTS] = _as_json(details.params.get("arguments", {}))
        span.set_attributes(found)

    def of_question(self, details: QuestionDetails, meta: dict[str, Any]) -> QuestionSpan:
        """Begin the span of a request to a client, and add its context to ``_meta``."""
        span = self._tracer.start_span(
            details.method, kind=SpanKind.CLIENT, attributes={names.METHOD: details.method}
        )
        if span.is_recording():
            found: dict[str, str] = {
                **network_of(details.transport),
                names.REQUEST_ID: str(details.request_id),
            }
            if details.protocol_version is not None:
                found[names.PROTOCOL_VERSION] = details.protocol_version
            if details.transport.name == "http":
                found[names.SESSION_ID] = _session(details.session_id, details.principal)
            span.set_attributes(found)
            propagate.inject(meta, trace.set_span_in_context(span))
        return QuestionSpan(span)

    def inject(self, meta: dict[str, Any]) -> None:
        """Add the context of the current span to ``_meta``, if it is recorded."""
        if trace.get_current_span().is_recording():
            propagate.inject(meta)

    def of_task(self, details: TaskDetails, request: RequestSpan) -> TaskSpan:
        """Begin the span of a task: it is linked to its request, which ends now."""
        target = request.details.target
        # Not a child: it outlives the request, and its trace should not wait for it.
        context = trace.set_span_in_context(trace.INVALID_SPAN, request.context)
        attributes: dict[str, str] = {} if target is None else {names.TOOL: target}
        span = self._tracer.start_span(
            "run_task" if target is None else f"run_task {target}",
            context,
            attributes=attributes,
            links=[Link(request.span.get_span_context())],
        )
        if span.is_recording():
            span.set_attribute(names.OPERATION, names.EXECUTE_TOOL)
            span.set_attribute(names.TASK, short_hash(details.task_id))
        return TaskSpan(span, context)


@final
@attrs.frozen(eq=False)
class RequestSpan:
    """The span of one request. No method is a checkpoint."""

    _spans: Spans
    span: Span
    context: Context
    """The context that the request was sent with."""
    details: RequestDetails

    def enter(self) -> None:
        """Make it the current span of the handler."""
        _enter(self.span, self.context)

    def link(self, first: RequestSpan) -> None:
        """Link it to the request that the handler was called for."""
        self.span.add_link(first.span.get_span_context())

    def of_task(self, details: TaskDetails) -> TaskSpan:
        """Begin the span of the task that the handler becomes."""
        return self._spans.of_task(details, self)

    def finished(self, outcome: RequestOutcome) -> None:
        """End it."""
        try:
            self._describe(outcome)
        finally:
            self.span.end()

    def _describe(self, outcome: RequestOutcome) -> None:
        span = self.span
        if span.is_recording():
            fault = fault_of(outcome.error_code, is_tool_error=outcome.is_tool_error)
            if fault is not None:
                _fail(span, fault, outcome.error_code, outcome.error_message)
            elif outcome.cancelled:
                span.set_attribute(names.CANCELLED, value=True)
            elif outcome.needs_input:
                span.add_event(names.INPUT_REQUIRED)
            is_call = self.details.method == "tools/call"
            if self._spans._capture_content and is_call and outcome.result is not None:
                span.set_attribute(names.RESULT, _as_json(outcome.result))


@final
@attrs.frozen(eq=False)
class QuestionSpan:
    """The span of one request to a client. No method is a checkpoint."""

    _span: Span

    def finished(self, outcome: QuestionOutcome) -> None:
        """End it."""
        error_type = error_type_of_question(outcome)
        if error_type is not None:
            # An error of the answer is the client's; for the caller it is an error all the same.
            _fail(
                self._span,
                Fault(error_type, is_ours=True),
                outcome.error_code,
                None if outcome.error is None else str(outcome.error),
            )
        elif outcome.cancelled:
            self._span.set_attribute(names.CANCELLED, value=True)
        self._span.end()


@final
class TaskSpan(TaskObserver):
    """The span of one task. No method is a checkpoint."""

    def __init__(self, span: Span, context: Context) -> None:
        self._span: Final = span
        self._context: Final = context

    def enter_handler(self) -> None:
        """Make it the current span of the handler."""
        _enter(self._span, self._context)

    def waits_for_input(self) -> None:
        """Note that it asks its client."""
        self._span.add_event(names.INPUT_REQUIRED)

    def finished(self, outcome: TaskOutcome) -> None:
        """End it."""
        fault = fault_of(outcome.error_code, is_tool_error=outcome.is_tool_error)
        if fault is not None:
            _fail(self._span, fault, outcome.error_code, outcome.error_message)
        elif outcome.status is TaskStatus.CANCELLED:
            self._span.set_attribute(names.CANCELLED, value=True)
        self._span.end()


def _enter(span: Span, context: Context) -> None:
    """Make a span the current one of the handler, unless the handler has opened spans itself."""
    own = contexts.get_value(_OWN_SPAN)
    if own is None or own is trace.get_current_span():
        context = contexts.set_value(_OWN_SPAN, span, context)
        contexts.attach(trace.set_span_in_context(span, context))


def _fail(span: Span, fault: Fault, code: int | None, message: str | None) -> None:
    """Set the attributes of an error; the status only where the server or a tool has failed."""
    span.set_attribute(names.ERROR_TYPE, fault.type)
    if code is not None:
        span.set_attribute(names.STATUS_CODE, str(code))
    if fault.is_ours:
        span.set_status(Status(StatusCode.ERROR, message))


def _carrier_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Return what propagators may read: the texts in ``_meta`` whose keys have no prefix.

    From 2026-07-28 on, all requests have texts there that are not for propagators. To read them all
    the same would take a third of the time of a span that is not sampled.
    """
    meta: object = params.get("_meta")
    if not is_object(meta):
        return {}
    return {
        key: value
        for key, value in meta.items()
        if isinstance(value, str) and "/" not in key and key != "progressToken"
    }


def _session(session_id: str, principal: Principal | None) -> str:
    """Return what a span says of a session: its id only where that alone opens nothing."""
    if principal is None or is_of_connection(principal):
        return short_hash(session_id)
    return session_id


def _as_json(value: object) -> str:
    return encode_json(value).decode()
