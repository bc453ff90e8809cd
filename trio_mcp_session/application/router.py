"""Router: calls the function that handles a method.

The class is in one file, although that is longer than 600 lines: most of them are the
signatures and docstrings of what programs may register.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Final, TypeAlias, TypeVar, final

import trio

from ..core.context_functions import check_context_function
from ..core.errors import InsufficientScope, McpError
from ..core.identity import ServerInfo
from ..core.scopes import checked_scopes
from ..protocol import skill_format
from ..protocol.eras import Eras, check_eras
from ..protocol.error_codes import METHOD_NOT_FOUND
from ..protocol.methods import RESERVED
from ..protocol.results import NO_CACHE, CacheHint
from ..protocol.skill_format import DEFAULT_LIMITS, SkillLimits
from ..protocol.tasks_extension import TASKS
from .binding import Binding, bind
from .completions import COMPLETE, Completions, completes_itself
from .context import RequestContext, _current
from .extensions import checked_extensions
from .method_names import check_method_name
from .middleware import Middleware, checked_middleware
from .mounting import ItemKind, Parts, Table, lifespan_of, names
from .prompts import Prompt, Prompts
from .question_types import InputRequired
from .resources import Resource, Resources
from .skills import Skill, SkillFiles, skill_of, skills_in
from .structure import (
    StructuredHints,
    StructuredNotifications,
    StructuredRequests,
    found_by,
    scopes_of,
    tool_called,
)
from .task_support import TaskMode, TaskSupport
from .tools import Tool, ToolOptions, Tools, error_for_model
from .url_elicitation import UrlElicitationRequired, required_urls
from .visibility import Feature, Visible

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params
    from ..protocol.revisions import Revision
    from ..server.ending import OnDisconnect
    from ..server.request import InFlightRequest
    from ..sessions.manager import ServerLifespan, SessionManager
    from ..sessions.session import Lifespan, Session
    from .arguments import Arguments
    from .metadata import Annotations, Icon, ToolAnnotations

Handler: TypeAlias = Callable[Concatenate[RequestContext, ...], Awaitable[object]]
HandlerT = TypeVar("HandlerT", bound=Handler)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
MiddlewareT = TypeVar("MiddlewareT", bound=Middleware)
VisibleT = TypeVar("VisibleT", bound=Visible)
SkillFunctionT = TypeVar(
    "SkillFunctionT",
    bound=Callable[..., str | SkillFiles] | Callable[..., Awaitable[str | SkillFiles]],
)

SESSION_NOTIFICATIONS: Final = frozenset({"notifications/cancelled"})
"""Notifications that the library handles itself."""


@final
class Router:
    """A server program: handlers by method, and the server's name and version.

    The server's capabilities follow from the registered handlers. Handlers may be registered at any
    time, also while clients are served; `SessionManager.notify_list_changed` notifies those.

    Args:
        name: Programmatic name of the server.
        version: Version of the server.
        title: Name of the server for people.
        description: What the server is for, for people (from 2025-11-25 on).
        website_url: Its web page (from 2025-11-25 on).
        icons: Its icons (from 2025-11-25 on).
        instructions: How to use the server, for the model.
        lifespan: Returns the async context manager that each client's session runs in.
        server_lifespan: Takes the `SessionManager`, and returns the async context manager that the
            whole server runs in: it is entered before the first client is accepted, and left when
            all sessions and requests have ended. `RequestContext.server_state` is its value.
        eras: Which clients to serve: ``legacy`` if the handlers need sessions, ``modern`` for
            stateless requests only, ``both`` if the handlers need no sessions. Other revisions are
            refused, and a client that knows several chooses another one. Endpoints and connections
            may override it.
        logging: Whether to offer log messages to clients.
        resource_subscriptions: Whether clients may subscribe to single resources;
            `SessionManager.notify_resource_updated` notifies them.
        cache_hints: How long clients may keep results, by method (from 2026-07-28 on); not at all
            by default.
        page_size: How many tools, resources, templates or prompts a list returns at a time; all
            by default. For lists of your own see `paginate`.
        strict: Whether only arguments of the exact types fit. By default a tool also takes what
            models often send instead: ``"5"`` for a number, the JSON text of a list or object, and
            null for an argument that has a default. Each tool may choose otherwise.
        inline_references: Whether the schemas of tools have no ``$ref``, for clients that cannot
            follow them. Types that contain themselves cannot be inlined.
        show_errors: Whether the result of a tool that fails shows the text of the exception to the
            model. By default it names the tool only: exceptions may contain secrets.
        thread_limiter: Limits the threads that functions with ``def`` run in, of tools, resources,
            prompts and completions; Trio's default limiter by default.
        extensions: The extensions that the server has, by name (``com.example/search``), with
            their settings: clients of 2026-07-28 get them in the capabilities. Register the methods
            of an extension with `request`. What a client declares is in `ClientInfo.extensions`.

    Raises:
        ValueError: ``page_size`` is less than 1, ``eras`` is not a value of `Eras`, or an extension
            has no vendor in its name.
        TypeError: A lifespan cannot return an async context manager: it is an async generator
            function without ``@asynccontextmanager``, or a coroutine function. Or the settings of
            an extension are not a mapping, or not JSON.
    """

    def __init__(
        self,
        name: str,
        version: str = "0",
        *,
        title: str | None = None,
        description: str | None = None,
        website_url: str | None = None,
        icons: Sequence[Icon] = (),
        instructions: str | None = None,
        lifespan: Lifespan | None = None,
        server_lifespan: ServerLifespan[Any] | None = None,
        eras: Eras = "both",
        logging: bool = True,
        resource_subscriptions: bool = False,
        cache_hints: Mapping[str, CacheHint] | None = None,
        page_size: int | None = None,
        strict: bool = False,
        inline_references: bool = False,
        show_errors: bool = False,
        thread_limiter: trio.CapacityLimiter | None = None,
        extensions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if page_size is not None and page_size < 1:
            raise ValueError(f"page_size must be at least 1, not {page_size!r}")
        check_eras(eras)
        if lifespan is not None:
            check_context_function(lifespan, "lifespan")
        self._server_info: Final = ServerInfo(
            name=name,
            version=version,
            title=title,
            description=description,
            website_url=website_url,
            icons=icons,
        )
        self._extensions: Final = checked_extensions(extensions or {})
        self._instructions: Final = instructions
        if server_lifespan is not None:
            check_context_function(server_lifespan, "server lifespan")
        self._logging: Final = logging
        hints = dict(cache_hints or {})
        self._cache_hints: dict[str, CacheHint] | StructuredHints = hints
        self._requests: Final[dict[str, Binding]] = {}
        self._notifications: Final[dict[str, Binding]] = {}
        self._limiter: Final = thread_limiter
        self._tools: Final = Tools(
            page_size,
            ToolOptions(
                strict=strict,
                inline_references=inline_references,
                show_errors=show_errors,
                limiter=thread_limiter,
            ),
        )
        self._resources: Final = Resources(page_size)
        self._prompts: Final = Prompts(page_size)
        self._completions: Final = Completions(self._prompts, self._resources)
        self._scopes: Final[dict[str, tuple[str, ...]]] = {}
        self._needs_scopes = False
        self._repeats_arguments = False
        """Whether an HTTP header may have to repeat an argument of a tool."""
        self._parts: Final = Parts(
            tools=self._tools,
            resources=self._resources,
            prompts=self._prompts,
            completions=self._completions,
            requests=self._requests,
            notifications=self._notifications,
            scopes=self._scopes,
            cache_hints=hints,
            lifespan=lifespan,
            server_lifespan=server_lifespan,
            eras=eras,
            resource_subscriptions=resource_subscriptions,
            page_size=page_size,
        )
        # What requests are looked up in; others as soon as the router has structure.
        self._served: dict[str, Binding] | StructuredRequests = self._requests
        self._noticed: dict[str, Binding] | StructuredNotifications = self._notifications

    def __repr__(self) -> str:
        return f"<Router {self._server_info.name!r}: {len(self._requests)} methods>"

    @property
    def server_info(self) -> ServerInfo:
        """How the server describes itself."""
        return self._server_info

    @property
    def instructions(self) -> str | None:
        """How to use the server, for the model."""
        return self._instructions

    @property
    def lifespan(self) -> Lifespan | None:
        """The lifespan of each client's session, with those of the mounted routers."""
        return lifespan_of(self._parts)

    @property
    def server_lifespans(self) -> Sequence[ServerLifespan[Any]]:
        """The lifespans of the whole server, in the order in which they are entered.

        Its own first, then those of the mounted routers.
        """
        lifespans = (one.server_lifespan for one in self._parts.tree())
        return tuple(dict.fromkeys(one for one in lifespans if one is not None))

    @property
    def eras(self) -> Eras:
        """Which clients it serves."""
        return self._parts.eras

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The registered tools, by name; not those of mounted routers."""
        return self._tools.all

    def request(
        self, method: str, *, scopes: str | Iterable[str] = (), allow_unknown: bool = False
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function as the handler of a request.

        It is called with the `RequestContext` and the parameters of the request: a ``dict``, or
        the msgspec struct, attrs class or other type that its second parameter is annotated with;
        parameters that do not fit are answered with -32602. It may also take the context only. It
        returns a mapping, an attrs object, a msgspec struct, or None for an empty result, and
        raises `McpError` to answer with an error.

        Methods of your own may have any name that cannot be taken for one of the protocol. Give
        them a prefix, as in ``acme/do``. A name that the protocol does not have is refused if it is
        close to one that it has (``tols/list``), or begins like those (``tools/``, ``prompts/``,
        ``resources/``, ``completion/``, ``logging/``, ``subscriptions/``). Names that begin with
        the vendor or the name of a declared extension are not checked.

        Args:
            method: The method.
            scopes: The scopes that a request needs, as for `tool`.
            allow_unknown: Whether the name may look like one of the protocol: for a method of a
                later revision, for example.

        Raises:
            ValueError: The method has a handler already, or the library answers it itself, or it
                only looks like one of the protocol. Or a scope is malformed.
            TypeError: The function takes other parameters, or JSON cannot be converted to them.
        """
        _check_called(method)
        if method in RESERVED:
            raise ValueError(f"{method} is answered by the library: it cannot have a handler")
        if not allow_unknown:
            check_method_name(method, self._extensions)
        needed = checked_scopes(scopes)

        def register(handler: HandlerT) -> HandlerT:
            if method in self._requests:
                raise ValueError(f"{method} has a handler already")
            self._requests[method] = bind(handler)
            if needed:
                self._scopes[method] = needed
                self._needs_scopes = True
            return handler

        return register

    def notification(self, method: str) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function as the handler of a notification.

        It is called like the handler of a request; its return value is ignored. Notifications are
        handled concurrently, like requests, so their order is not kept.

        Raises:
            ValueError: The method has a handler already, or the library handles it itself.
            TypeError: The function takes other parameters, or JSON cannot be converted to them.
        """
        _check_called(method)
        if method in SESSION_NOTIFICATIONS:
            raise ValueError(f"{method} is handled by the library: it cannot have a handler")

        def register(handler: HandlerT) -> HandlerT:
            if method in self._notifications:
                raise ValueError(f"{method} has a handler already")
            self._notifications[method] = bind(handler)
            return handler

        return register

    def tool(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | Mapping[str, Any] | None = None,
        icons: Sequence[Icon] = (),
        meta: Mapping[str, Any] | None = None,
        input_schema: Mapping[str, Any] | None = None,
        structured: bool | None = None,
        strict: bool | None = None,
        abandon_on_cancel: bool = False,
        scopes: str | Iterable[str] = (),
        on_disconnect: OnDisconnect | None = None,
        task: TaskMode = "never",
        promote_after: float | None = None,
        ask_first: bool = False,
        middleware: Iterable[Middleware] = (),
    ) -> Callable[[FunctionT], FunctionT]:
        """Register the decorated function as a tool.

        ::

            @router.tool()
            async def add(a: int, b: Annotated[int, "the second number"] = 0) -> int:
                return a + b

        Its parameters are the tool's arguments. The schema is made from the signature, and the
        arguments are checked and converted by it. The function may take the `RequestContext`, too,
        in any parameter that is annotated with it. A ``def`` runs in a thread.

        Its return value becomes the result: a text, a content (`ImageContent` and others), a list
        with at least one content, or a `ToolResult`. Any other value is sent as JSON text. With a
        return annotation, texts and other values are also structured content (from 2025-06-18 on),
        with an output schema from the annotation; a value that is not an object becomes the member
        ``result`` of one. Without an annotation only objects are.

        The result has ``isError``, so that the model can do something about it, if the arguments do
        not fit, if the function raises `ToolError`, which shows its text, and if it fails with any
        other exception or takes too long. `McpError` is answered as a JSON-RPC error.

        Args:
            name: The tool's name; the function's by default.
            title: Its name for people.
            description: What it does, for the model; the function's docstring by default. For
                single arguments use ``Annotated[str, msgspec.Meta(description=...)]``.
            annotations: Hints for clients.
            icons: Its icons.
            meta: Its ``_meta``, for the client's program.
            input_schema: A JSON schema to use instead of the signature's. The function then
                takes one ``dict`` of the arguments, beside the context, and checks them itself.
            structured: Whether its results have structured content; by default if the return
                annotation allows it.
            strict: Whether only arguments of the exact types fit; by default as the router.
            abandon_on_cancel: Whether a call of a ``def`` that is cancelled leaves its thread
                behind. By default the cancelled call waits until the thread ends.
            scopes: The scopes that a call needs: all of them must be in `Principal.scopes`. Text
                is split at spaces. A client over stdio or in memory needs none, unless it was
                given a principal.
            on_disconnect: What happens to a call over HTTP when its client leaves. None: up to
                2025-11-25 it runs on, and the client can fetch the result; from 2026-07-28 on it is
                cancelled. ``finish``: nothing more is sent, `RequestContext.ending` is set, and the
                function runs on, within its deadline and the limits, until a drain. ``adopt``: the
                same, but the session that the request names in ``Mcp-Session-Id`` owns it from then
                on, and ends it when it ends; without such a session as ``finish``. ``cancel``: it
                is cancelled, also up to 2025-11-25, where the protocol recommends the opposite. On
                a pipe or socket a call always ends with its connection, and a client that cancels a
                call up to 2025-11-25 or on a pipe always cancels it.
            task: When a call becomes a task, for clients of 2026-07-28 that declare the tasks
                extension: the client gets the task's id instead of the result, and asks for its
                status until it has one. ``never``; ``optional``: if it still runs after
                ``promote_after``; ``required``: at once, and clients of 2026-07-28 without the
                extension are refused (-32021). All other clients wait for the result. The function
                is the same in all cases; see `RequestContext.become_task`.
            promote_after: Seconds after which an optional call becomes a task; 0.5 by default,
                `math.inf` if only the function decides. The time begins anew when the client has
                answered a question.
            ask_first: Whether a required call becomes a task only when the function calls
                `RequestContext.become_task`: questions before that are answers to the request.
            middleware: What is around its calls only, outermost first, within the middleware of
                the router: see `middleware`.

        Raises:
            ValueError: A tool with this name exists, or ``tools/call`` or ``tools/list`` has a
                handler of its own. Or a scope is malformed, or ``on_disconnect`` or ``task`` is
                unknown, or an option of tasks does not belong to ``task``.
            TypeError: JSON cannot be converted to the type of a parameter, or a parameter has none,
                or the function is a generator. Or ``middleware`` has something else.
            NameError: An argument's annotation names something that is imported for type checkers
                only.
        """
        _check_called(name)
        as_task = TaskSupport.of(task, promote_after, ask_first=ask_first)

        def register(handler: FunctionT) -> FunctionT:
            own = self._item_handlers("tools")
            tool = Tool.of(
                handler,
                name=name,
                title=title,
                description=description,
                annotations=annotations,
                icons=icons,
                meta=meta,
                input_schema=input_schema,
                structured=structured,
                strict=strict,
                abandon_on_cancel=abandon_on_cancel,
                scopes=scopes,
                on_disconnect=on_disconnect,
                as_task=as_task,
                middleware=middleware,
                options=self._tools.options,
            )
            self._tools.add(tool)
            if tool.middleware:
                self._add_structure()
            self._needs_scopes = self._needs_scopes or bool(tool.scopes)
            self._repeats_arguments = self._repeats_arguments or bool(tool.header_parameters)
            # They stay when all tools are removed: clients know that the server has tools.
            self._requests.update(own)
            return handler

        return register

    def remove_tool(self, name: str) -> None:
        """Remove a tool.

        Raises:
            KeyError: No tool has this name.
        """
        self._tools.remove(name)

    @property
    def resources(self) -> Mapping[str, Resource]:
        """The registered resources and templates, by URI or URI template; not mounted ones."""
        return self._resources.all

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
        size: int | None = None,
        annotations: Annotations | None = None,
        icons: Sequence[Icon] = (),
        meta: Mapping[str, Any] | None = None,
        any_path: Collection[str] = (),
    ) -> Callable[[FunctionT], FunctionT]:
        """Register the decorated function as a resource, or as a template of resources.

        ::

            @router.resource("notes://{name}{?page}")
            async def note(name: str, page: int = 1) -> str: ...

        A URI with variables is a template (RFC 6570, with the rules of the official Python SDK).
        The function takes each variable as a parameter, converted to its type; variables of the
        query need a default. It may take the `RequestContext`, too. A ``def`` runs in a thread.

        It returns text, bytes, `ResourceContents`, or a list of bytes and `ResourceContents`; any
        other value, also a list with texts, is sent as JSON. It raises `McpError` to answer with an
        error.

        Args:
            uri: The URI or URI template.
            name: The programmatic name; the function's by default.
            title: The name for people.
            description: What it is, for the model; the function's docstring by default.
            mime_type: The media type; by default it follows from the return value.
            size: The size in bytes, before encoding.
            annotations: For which reader it is, and how important.
            icons: Its icons.
            meta: Its ``_meta``.
            any_path: The variables whose values may lead out of a folder (``..``, absolute
                paths). A URI with such a value in another variable is not found.

        Raises:
            ValueError: The URI is not a template, is registered already, or ``resources/read`` or
                a list of resources has a handler of its own.
            TypeError: The function's parameters are not the variables.
        """
        _check_called(uri)

        def register(function: FunctionT) -> FunctionT:
            resource = Resource.of(
                function,
                uri,
                name=name,
                title=title,
                description=description,
                mime_type=mime_type,
                size=size,
                annotations=annotations,
                icons=icons,
                meta=meta,
                any_path=any_path,
                limiter=self._limiter,
            )
            own = self._item_handlers("resources")
            self._resources.add(resource)
            self._requests.update(own)
            self._offer_completions(resource.arguments)
            return function

        return register

    def remove_resource(self, uri: str) -> None:
        """Remove a resource, or a template.

        Raises:
            KeyError: No resource has this URI or URI template.
        """
        self._resources.remove(uri)

    @property
    def skills(self) -> Mapping[str, Skill]:
        """The registered skills, by the URIs of their ``SKILL.md``; not mounted ones."""
        return self._resources.skills.all

    def skill(
        self,
        name: str | None = None,
        *,
        description: str | None = None,
        prefix: str = "",
        front_matter: Mapping[str, Any] | None = None,
        dynamic: bool = False,
    ) -> Callable[[SkillFunctionT], SkillFunctionT]:
        """Register the decorated function as a skill (SEP-2640, from 2026-07-28 on).

        ::

            @router.skill(description="How this team writes commits. Use before each commit.")
            def git_workflow() -> str:
                return "Begin the first line with a verb ..."

        The function returns the text of the file ``SKILL.md`` without front matter, or a mapping of
        all files by their paths: texts and bytes, for example ``{"SKILL.md": "# ...",
        "scripts/check.py": b"..."}``. It may take the `RequestContext` and dependencies, and
        nothing else. A ``def`` runs in a thread. It is called for each list of skills, and for each
        file that is read. The files are within the limits of `SkillLimits`.

        Clients without the extension see the skill as resources: ``SKILL.md`` is listed, and all
        files can be read. The URI is ``skill://git-workflow/SKILL.md``, or with a prefix
        ``skill://acme/team/git-workflow/SKILL.md``. `disable` hides a skill by this URI.

        Args:
            name: The skill's name: a-z, 0-9, and single hyphens; the function's by default.
            description: What it does, and when the model should use it; the function's docstring
                by default.
            prefix: Folders that its URI begins with, with slashes between them.
            front_matter: Other fields of its front matter, such as ``license`` and ``metadata``.
            dynamic: Whether its entry has no digests, because its files change all the time.
                Clients may refuse such a skill.

        Raises:
            ValueError: The skill exists, or is inside of another one, or its name, description,
                prefix or front matter is malformed. Or a method of skills or resources has a
                handler of its own.
            TypeError: The function takes something else, or the front matter is not JSON.
        """
        _check_called(name)

        def register(function: SkillFunctionT) -> SkillFunctionT:
            skill = skill_of(
                function,
                name=name,
                description=description,
                prefix=prefix,
                front_matter=front_matter or {},
                dynamic=dynamic,
                limiter=self._limiter,
            )
            self._add_skills([skill])
            return function

        return register

    def skills_from(
        self,
        folder: str | os.PathLike[str],
        *,
        prefix: str = "",
        limits: SkillLimits = DEFAULT_LIMITS,
    ) -> tuple[str, ...]:
        """Register all skills in a folder (SEP-2640, from 2026-07-28 on).

        Each folder in it that has a file ``SKILL.md`` is a skill, also inside of other folders and
        of other skills; or the folder itself is one. All files of these folders are served, except
        for those with names that begin with a dot, and ``__pycache__``. Symbolic links are refused.

        Which skills there are is found out once, here. Their files are read for each request, in a
        thread, so changes are served. A skill that no longer conforms is left out of lists,
        and the log says why. Not a checkpoint: it blocks while it reads.

        Args:
            folder: The folder. A relative path is resolved here.
            prefix: Folders that all URIs begin with, with slashes between them.
            limits: What bounds the skills, also later.

        Returns:
            The URIs of the skills.

        Raises:
            ValueError: A skill or the prefix is malformed, or exists, or is inside of another one,
                or a limit is exceeded, or the folder has no skills. Or a method of skills or
                resources has a handler of its own.
            OSError: Something in the folder cannot be read.
            NotImplementedError: On Windows, which cannot open files inside of an open folder.
        """
        found = skills_in(folder, prefix=prefix, limits=limits, limiter=self._limiter)
        self._add_skills(found)
        return tuple(skill.uri for skill in found)

    def _add_skills(self, added: Collection[Skill]) -> None:
        own = self._item_handlers("skills")
        self._resources.add_skills(added)
        self._parts.has_skills = True
        self._requests.update(own)

    def remove_skill(self, uri: str) -> None:
        """Remove a skill by the URI of its ``SKILL.md``.

        Raises:
            KeyError: No skill has this URI.
        """
        self._resources.skills.remove(uri)

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """The registered prompts, by name; not those of mounted routers."""
        return self._prompts.all

    def prompt(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        icons: Sequence[Icon] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Register the decorated function as a prompt.

        ::

            @router.prompt()
            def review(code: str, language: Annotated[str, "The programming language"] = "python"):
                return f"Review this {language} code: {code}"

        Its parameters are the prompt's arguments: clients send texts, which are converted to their
        types. It may take the `RequestContext`, too. A ``def`` runs in a thread.

        It returns a text, a content, a `PromptMessage`, a list of these, or a `PromptResult`; any
        other value is sent as JSON. It raises `McpError` to answer with an error.

        Args:
            name: The prompt's name; the function's by default.
            title: Its name for people.
            description: What it is for; the function's docstring by default.
            icons: Its icons.
            meta: Its ``_meta``.

        Raises:
            ValueError: A prompt with this name exists, or ``prompts/get`` or ``prompts/list`` has
                a handler of its own.
            TypeError: JSON cannot be converted to the type of a parameter.
        """
        _check_called(name)

        def register(function: FunctionT) -> FunctionT:
            prompt = Prompt.of(
                function,
                name=name,
                title=title,
                description=description,
                icons=icons,
                meta=meta,
                limiter=self._limiter,
            )
            own = self._item_handlers("prompts")
            self._prompts.add(prompt)
            self._requests.update(own)
            self._offer_completions(prompt.arguments)
            return function

        return register

    def remove_prompt(self, name: str) -> None:
        """Remove a prompt.

        Raises:
            KeyError: No prompt has this name.
        """
        self._prompts.remove(name)

    def completion(
        self, of: str | Callable[..., Any], argument: str
    ) -> Callable[[FunctionT], FunctionT]:
        """Register the decorated function to complete an argument of a prompt or template.

        ::

            @router.completion(review, "language")
            async def languages(value: str) -> list[str]:
                return [name for name in ("python", "rust") if name.startswith(value)]

        The function takes the text so far as ``value``. It may take ``arguments``, a mapping of
        those that the user has filled in already (from 2025-06-18 on), and the `RequestContext`.
        It returns texts, best first, of which 100 are sent; or a `Completion`. Arguments with a
        fixed set of values, such as an ``enum``, need no function.

        Args:
            of: The prompt or template: its function, its name, or its URI template.
            argument: The name of the argument or variable.

        Raises:
            ValueError: The argument does not exist, is completed already, or
                ``completion/complete`` has a handler of its own.
            TypeError: The function takes other parameters.
        """

        def register(function: FunctionT) -> FunctionT:
            own = self._item_handlers("completions")
            self._completions.add(of, argument, function, limiter=self._limiter)
            self._requests.update(own)
            return function

        return register

    def middleware(self, function: MiddlewareT) -> MiddlewareT:
        """Wrap all calls of handlers in a function; use it as a decorator, or call it.

        ::

            @router.middleware
            async def timed(ctx: RequestContext, call_next: CallNext) -> object:
                begun = trio.current_time()
                try:
                    return await call_next()
                finally:
                    log(ctx.method, trio.current_time() - begun - ctx.suspended_for)

        ``call_next()`` calls the next middleware or the handler, and returns what that returns or
        raises what it raises. The value is what the handler returned, before a result is made of
        it, or the result of a list. Return it, or another value of the same kind; raise an error to
        answer with it, as a handler would. Without calling ``call_next`` the handler does not run.

        The first one that is registered is outermost. Middleware is around everything from the
        check of the arguments to the end of the handler, while that waits for its client, too. It
        is called for notifications, and not for what the library answers itself, such as
        ``initialize`` and ``ping``.

        From 2026-07-28 on, an `InputRequired` is a value as others: the client sends a new request.

        Args:
            function: An ``async def`` that takes the `RequestContext` and `CallNext`.

        Raises:
            TypeError: It is something else.
        """
        self._parts.middleware.extend(checked_middleware((function,)))
        self._add_structure()
        return function

    def mount(self, other: Router, *, prefix: str = "") -> None:
        """Serve all that another router has, also what is added to it later.

        With the prefix ``weather``, a tool or prompt ``forecast`` is called ``weather_forecast``,
        and a resource ``data://cities`` has the URI ``data://weather/cities``, as in FastMCP. The
        handlers of `request` and `notification` keep their methods. Without a prefix all names are
        unchanged.

        The other router's lifespan, scopes, header parameters, middleware, visibility and options
        of tools hold for its parts; its middleware is called within this router's, and not for
        lists. Its cache hints hold for its resources; a list that several routers share may be kept
        for the shortest time of theirs. Its description of the server, instructions, extensions,
        ``logging`` and ``page_size`` are not used. If it has a ``server_lifespan``, mount it before
        the manager opens, which enters that.

        What this router has comes first, then what is mounted, in the order of mounting. This
        decides about names that are added later.

        Args:
            other: The router. It may be mounted in several places, and served alone.
            prefix: Letters, digits, ``_``, ``-`` and ``.``.

        Raises:
            ValueError: The prefix has other characters, or a name, URI or method would have two
                meanings. Or the routers would be mounted in a circle, or ``eras`` of the other one
                excludes clients of this one.
        """
        self._parts.mount(other._parts, prefix)
        # Perhaps: it is decided for each request.
        self._needs_scopes = self._repeats_arguments = True
        self._add_structure()

    def disable(
        self,
        *,
        tools: str | Iterable[str] = (),
        prompts: str | Iterable[str] = (),
        resources: str | Iterable[str] = (),
        session: Session | None = None,
    ) -> None:
        """Hide tools, prompts or resources, and notify the clients that this concerns.

        They are not listed, and requests for them are answered as for unknown ones. Running calls
        continue. Not a checkpoint.

        Args:
            tools: Names, as clients see them.
            prompts: Names, as clients see them.
            resources: URIs or URI templates, as clients see them. That of a ``SKILL.md`` stands for
                the whole skill.
            session: Hide them from this session only; from all clients by default.

        Raises:
            ValueError: This router and what is mounted on it have nothing of this name.
        """
        self._choose(tools, prompts, resources, session, enabled=False)

    def enable(
        self,
        *,
        tools: str | Iterable[str] = (),
        prompts: str | Iterable[str] = (),
        resources: str | Iterable[str] = (),
        session: Session | None = None,
    ) -> None:
        """Show what was hidden by `disable`, with the same arguments.

        With ``session``, also what is disabled for all others.
        """
        self._choose(tools, prompts, resources, session, enabled=True)

    def visible(self, predicate: VisibleT) -> VisibleT:
        """Let a function decide what each request sees; use it as a decorator, or call it.

        ::

            @router.visible
            def public_or_admin(ctx: RequestContext, component: Component) -> bool:
                admin = ctx.principal is not None and "admin" in ctx.principal.scopes
                return admin or not component.name.startswith("admin_")

        What one of these functions returns False for is hidden, as with `disable`. They are called
        for each component of a list, and must be fast. If one raises, the request fails. Lists are
        never shared by caches then (``cacheScope``, from 2026-07-28 on). If the answer of a
        function changes, notify clients with `SessionManager.notify_list_changed`.

        Args:
            predicate: A ``def`` that takes the `RequestContext` and a `Component`.

        Raises:
            TypeError: It is something else.
        """
        self._parts.visibility.add_predicate(predicate)
        self._add_structure()
        return predicate

    def _choose(
        self,
        tools: str | Iterable[str],
        prompts: str | Iterable[str],
        resources: str | Iterable[str],
        session: Session | None,
        *,
        enabled: bool,
    ) -> None:
        given: dict[Feature, str | Iterable[str]] = {
            "tools": tools,
            "prompts": prompts,
            "resources": resources,
        }
        chosen: dict[Feature, Iterable[str]] = {}
        for feature, some in given.items():
            chosen[feature] = found = (some,) if isinstance(some, str) else tuple(some)
            if unknown := set(found) - set(names(self._parts, feature)):
                raise ValueError(f"{min(unknown)!r} is not a name in the {feature} of this router")
        self._parts.visibility.choose(chosen, session, enabled=enabled)
        self._add_structure()

    def served_by(self, manager: SessionManager) -> None:
        """Notify the clients of a manager of changes. The session layer calls this."""
        self._parts.visibility.add_manager(manager)

    def _add_structure(self) -> None:
        """From now on, look requests up in the tables for routers with structure."""
        self._served = StructuredRequests(self._parts)
        self._noticed = StructuredNotifications(self._parts)
        self._cache_hints = StructuredHints(self._parts)

    def _offer_completions(self, arguments: Arguments) -> None:
        """Offer completions if an argument needs no function for them."""
        if completes_itself(arguments):
            self._requests.setdefault(COMPLETE, self._parts.item_handlers[COMPLETE])

    def _item_handlers(self, kind: ItemKind) -> Table:
        """Return the handlers of all methods that registered tools, or others, need.

        Raises:
            ValueError: One of the methods has a handler of its own.
        """
        found = self._parts.handlers_of[kind]
        for method, handler in found.items():
            if self._requests.get(method, handler) is not handler:
                raise ValueError(f"{method} has a handler of its own already")
        return found

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        """Return the capabilities that follow from the registered handlers."""
        found: dict[str, Any] = {}
        if self._logging:
            found["logging"] = {}
        offered = {method.partition("/")[0] for method in self._served}
        for feature in ("tools", "prompts", "resources"):
            if feature in offered:
                found[feature] = {"listChanged": True}
        if "resources" in found and any(one.resource_subscriptions for one in self._parts.tree()):
            found["resources"]["subscribe"] = True
        if "completion" in offered and revision.completions:
            found["completions"] = {}
        if revision.extensions and (extensions := self._all_extensions()):
            found["extensions"] = extensions
        return found

    def _all_extensions(self) -> Mapping[str, Any]:
        """Return the extensions of the program, and those that follow from what it has."""
        found: dict[str, Any] = {}
        if any(one.tools.have_tasks for one in self._parts.tree()):
            found[TASKS] = {}
        if any(one.has_skills for one in self._parts.tree()):
            found[skill_format.EXTENSION] = {
                **self._extensions.get(skill_format.EXTENSION, {}),
                **skill_format.SETTINGS,
            }
        return {**self._extensions, **found} if found else self._extensions

    def handles_request(self, method: str) -> bool:
        """Return whether requests of this method have a handler."""
        return method in self._served

    def header_parameters(self, method: str, params: Params) -> Mapping[str, tuple[str, ...]]:
        """Return which arguments of a tool HTTP headers must repeat (from 2026-07-28 on)."""
        if not self._repeats_arguments or method != "tools/call":
            return {}
        tool = self._tool_called(params)
        return {} if tool is None else tool.header_parameters

    def required_scopes(self, method: str, params: Params) -> tuple[str, ...]:
        """Return the scopes that a request needs; see `tool`. Not a checkpoint."""
        if not self._needs_scopes:
            return ()
        mounts = self._parts.mounts
        needed = scopes_of(self._parts, method) if mounts else self._scopes.get(method, ())
        tool = self._tool_called(params) if method == "tools/call" else None
        return needed if tool is None else tuple(dict.fromkeys((*needed, *tool.scopes)))

    def target_of(self, method: str, params: Params) -> str | None:
        """Return the name of the tool or prompt that a request is for, if there is one of it."""
        name = params.get("name")
        if method not in ("tools/call", "prompts/get") or not isinstance(name, str):
            return None
        if self._served is not self._requests:  # Something is mounted or disabled.
            known = found_by(self._parts, method, params) is not None
        elif method == "tools/call":
            known = self._tools.find(name) is not None
        else:
            known = name in self._prompts.all
        return name if known else None

    def _tool_called(self, params: Params) -> Tool | None:
        """Return the tool that ``tools/call`` calls, if it is not disabled for all."""
        if self._served is self._requests:  # Nothing is mounted or disabled.
            return self._tools.find(params.get("name"))
        return tool_called(self._parts, params)

    def cache_hint(self, method: str) -> CacheHint:
        """Return how long clients may keep the results of a method (from 2026-07-28 on)."""
        return self._cache_hints.get(method, NO_CACHE)

    def handles_notification(self, method: str) -> bool:
        """Return whether notifications of this method have a handler."""
        return method in self._noticed

    async def handle(self, request: InFlightRequest) -> object:
        """Call the handler of a request or notification. The session layer calls this."""
        context = RequestContext(request)
        _current.set(context)
        handlers = self._served if context.request_id is not None else self._noticed
        binding = handlers.get(request.method)
        if binding is None:
            raise McpError(METHOD_NOT_FOUND, "Method not found")
        if self._needs_scopes and context.request_id is not None:
            needed = self.required_scopes(request.method, request.params)
            if not request.has_scopes(needed):
                raise InsufficientScope(needed)
        while True:
            asked: InputRequired | UrlElicitationRequired | None
            try:
                result = await binding(context)
                if not isinstance(result, InputRequired):
                    return result
                asked = result
            except Exception as error:
                asked = required_urls(error)
                if asked is None:
                    raise
            answer = await _ask(context, asked)
            if answer is not None:
                return answer


async def _ask(
    context: RequestContext, asked: InputRequired | UrlElicitationRequired
) -> Mapping[str, Any] | None:
    """Ask what a handler needs before it is called again.

    Returns:
        The answer to the request; None if the handler can be called again.
    """
    try:
        return await context._ask_for_next_call(asked)
    except Exception as error:  # raised there if it is not for the model
        if context._request.describe_failure is None:  # It calls no tool.
            raise
        return error_for_model(error, context._request)


def _check_called(name: object) -> None:
    """Refuse a decorator that is used without parentheses: it would register nothing."""
    if callable(name):
        raise TypeError("call the decorator, with parentheses: @router.tool(), not @router.tool")
