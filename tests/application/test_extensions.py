"""How a server describes itself, and extensions that the library does not know."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from tests.application.client import ERAS, D, M, connected
from trio_mcp_session import ClientInfo, Icon, RequestContext, Router
from trio_mcp_session.application.extensions import checked_extensions
from trio_mcp_session.application.method_names import check_method_name
from trio_mcp_session.protocol.envelope import SERVER_INFO
from trio_mcp_session.protocol.methods import METHODS


@pytest.mark.parametrize("version", ERAS)
async def test_a_client_reads_how_the_server_describes_itself(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router(
        "demo",
        "3",
        description="Shows things",
        website_url="https://example.com/",
        icons=[Icon("data:,")],
    )
    async with connected(router, version) as client:
        if version == M:
            answer = await client.answer_to(await client.ask("server/discover"))
            told = answer["result"]["_meta"][SERVER_INFO]
        else:
            told = client.greeting["serverInfo"]
    assert told.get("description") == (None if version < D else "Shows things")
    assert told.get("websiteUrl") == (None if version < D else "https://example.com/")
    assert told.get("icons") == (None if version < D else [{"src": "data:,"}])


async def test_other_results_name_the_server_only(autojump_clock: MockClock) -> None:
    router = Router("demo", "3", title="Demo", description="Shows things", icons=[Icon("data:,")])

    @router.request("acme/do")
    async def do(_: RequestContext) -> None: ...

    async with connected(router, M) as client:
        answer = await client.answer_to(await client.ask("acme/do"))
        told = answer["result"]["_meta"][SERVER_INFO]
        assert told == {"name": "demo", "version": "3", "title": "Demo"}


# Extensions.


@pytest.mark.parametrize("version", ERAS)
async def test_extensions_are_declared_and_have_methods(
    version: str, autojump_clock: MockClock
) -> None:
    settings: dict[str, Any] = {"depth": [1, 2]}
    router = Router("demo", extensions={"com.example/search": settings, "acme/x": {}})
    settings["depth"].append(3)

    @router.request("com.example/find")
    async def find(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.client is not None
        return dict(ctx.client.extensions)

    declared = {"extensions": {"acme/x": {"a": 1}}}
    async with connected(router, version, capabilities=declared) as client:
        told = client.greeting["capabilities"].get("extensions")
        expected = {"com.example/search": {"depth": [1, 2]}, "acme/x": {}}
        assert told == (expected if version == M else None)
        assert await client.request("com.example/find") == {"acme/x": {"a": 1}}


@pytest.mark.parametrize("declared", [{}, {"extensions": None}, {"extensions": [1]}])
def test_a_client_that_declares_no_extensions_has_none(declared: dict[str, Any]) -> None:
    assert ClientInfo(capabilities=declared).extensions == {}


@pytest.mark.parametrize(
    "name", ["search", "/search", "acme/", "acme//x", "a b/x", "-a/x", "a./x", "acme/x/y", "acme/-"]
)
def test_an_extension_needs_a_vendor_in_its_name(name: str) -> None:
    with pytest.raises(ValueError, match="needs a name with a vendor, such as"):
        Router("demo", extensions={name: {}})


@pytest.mark.parametrize("name", ["a/b", "io.modelcontextprotocol/ui", "my-company.org/v1.2_x-y"])
def test_names_of_extensions(name: str) -> None:
    assert checked_extensions({name: {}}) == {name: {}}


def test_settings_are_a_mapping() -> None:
    settings: Any = True
    with pytest.raises(TypeError, match="settings of the extension 'a/b' must be a mapping: True"):
        Router("demo", extensions={"a/b": settings})


def test_settings_are_json() -> None:
    with pytest.raises(TypeError, match="settings of the extension 'a/b' are not JSON"):
        Router("demo", extensions={"a/b": {"x": object()}})


# Names of methods.


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_the_protocol_are_known(method: str) -> None:
    check_method_name(method)


@pytest.mark.parametrize(
    "method, meant",
    [
        ("tols/list", "tools/list"),
        ("tool/list", "tools/list"),
        ("Tools/List", "tools/list"),
        ("tools/lists", "tools/list"),
        ("prompt/get", "prompts/get"),
        ("resource/read", "resources/read"),
        ("resources/template/list", "resources/templates/list"),
        ("completions/complete", "completion/complete"),
        ("task/get", "tasks/get"),
    ],
)
def test_a_misspelt_method_is_refused_with_the_one_that_was_meant(method: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'") as caught:
        Router("demo").request(method)
    assert "pass allow_unknown=True" in str(caught.value)


@pytest.mark.parametrize("method", ["tools/purge", "resources/own", "logging/off"])
def test_names_that_begin_like_those_of_the_protocol_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="belong to the protocol"):
        Router("demo").request(method)


@pytest.mark.parametrize("method", ["roots/list", "sampling/createMessage", "elicitation/create"])
def test_methods_of_clients_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="clients answer it"):
        Router("demo").request(method)


@pytest.mark.parametrize(
    "method",
    [
        "acme/do",
        "acme/list",
        "notes/list",
        "books/list",
        "shop/get",
        "server/status",
        "work",
        "pong",
    ],
)
def test_methods_of_an_application_have_any_other_name(method: str) -> None:
    router = Router("demo")
    router.request(method)(handler)
    assert router.handles_request(method)


async def handler(_: RequestContext) -> None: ...


@pytest.mark.parametrize("method", ["tols/list", "tools/purge", "roots/list"])
def test_unknown_methods_can_be_allowed(method: str) -> None:
    router = Router("demo")
    router.request(method, allow_unknown=True)(handler)
    assert router.handles_request(method)


@pytest.mark.parametrize("method", ["tasks/got", "org.example/tasks/got", "org.example/x"])
def test_methods_of_a_declared_extension_are_allowed(method: str) -> None:
    router = Router("demo", extensions={"org.example/tasks": {}})
    router.request(method)(handler)
    assert router.handles_request(method)


def test_an_extension_allows_only_its_own_methods() -> None:
    with pytest.raises(ValueError, match="did you mean 'tools/list'"):
        Router("demo", extensions={"org.example/tasks": {}}).request("tols/list")
