"""Forms that are classes, URLs to open, and models with tools, in both eras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints

from tests.application.answering import play, text_of, tool, with_tool
from tests.application.client import ERAS, VERSIONS, A, B, C, Client, D, M, connected
from trio_mcp_session import (
    Elicitation,
    ElicitResult,
    Form,
    FormInvalid,
    InputRequired,
    NoChannel,
    RequestContext,
    Router,
    Session,
    UrlElicitation,
    UrlElicitationRequired,
    notify_elicitation_complete,
)

WITH_FORMS = (C, D, M)
WITH_URLS = (D, M)
IN_FORM_ERAS = pytest.mark.parametrize("version", WITH_FORMS)
IN_URL_ERAS = pytest.mark.parametrize("version", WITH_URLS)
FORMS: dict[str, Any] = {"elicitation": {}}
URLS: dict[str, Any] = {"elicitation": {"url": {}}}
MODELS: dict[str, Any] = {"sampling": {"tools": {}}}


class Struct(msgspec.Struct):
    guests: Annotated[int, msgspec.Meta(ge=1)]
    table: Literal["in", "out"] = "in"


@attrs.define
class Attrs:
    guests: Annotated[int, msgspec.Meta(ge=1)]
    table: Literal["in", "out"] = "in"


@dataclasses.dataclass
class DataClass:
    guests: Annotated[int, msgspec.Meta(ge=1)]
    table: Literal["in", "out"] = "in"


class Dictionary(TypedDict):
    guests: Annotated[int, msgspec.Meta(ge=1)]


class Model(pydantic.BaseModel):
    guests: int = pydantic.Field(ge=1)
    table: Literal["in", "out"] = "in"


class NoForm(TypedDict):
    rows: list[list[int]]


def answering(
    result: Mapping[str, Any],
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return a function that answers each question with one result."""
    return lambda questions: dict.fromkeys(questions, result)


def accept(**content: object) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    return answering({"action": "accept", "content": content})


# Forms.


@IN_FORM_ERAS
@pytest.mark.parametrize(
    "kind, booked",
    [
        (Struct, Struct(2)),
        (Attrs, Attrs(2)),
        (DataClass, DataClass(2)),
        (Dictionary, {"guests": 2}),
        (Model, Model(guests=2)),
        (Form.of(Struct), Struct(2)),
    ],
)
async def test_a_class_is_a_form_whose_answer_is_an_object_of_it(
    kind: Any, booked: object, version: str, autojump_clock: MockClock
) -> None:
    answers: list[ElicitResult[Any]] = []

    async def book(ctx: RequestContext) -> str:
        with assert_checkpoints():
            answers.append(await ctx.elicit("A table?", kind))
        return "done"

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        _, asked = await play(client, "tools/call", tool("run"), accept(guests=2))
    assert answers == [ElicitResult(action="accept", content=booked)]
    ((method, params),) = asked
    assert (method, params["message"]) == ("elicitation/create", "A table?")
    schema = params["requestedSchema"]
    assert schema["properties"]["guests"]["type"] == "integer"
    assert schema["properties"]["guests"]["minimum"] == 1
    assert schema["required"] == ["guests"]


@IN_FORM_ERAS
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_declined_form_is_told_apart_from_a_closed_one(
    action: str, version: str, autojump_clock: MockClock
) -> None:
    async def book(ctx: RequestContext) -> str:
        answer = await ctx.elicit("A table?", Struct)
        assert answer.content is None
        return answer.action

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        given = {"action": action, "content": {"guests": 0}}
        answer, _ = await play(client, "tools/call", tool("run"), answering(given))
        assert text_of(answer) == action


@IN_FORM_ERAS
@pytest.mark.parametrize("content, why", [({"guests": 0}, ">= 1"), (None, "missing required")])
async def test_an_answer_that_does_not_fit_is_told_to_the_model(
    content: object, why: str, version: str, autojump_clock: MockClock
) -> None:
    async def book(ctx: RequestContext) -> str:
        return f"{await ctx.elicit('A table?', Struct)}"

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        given = answering({"action": "accept", "content": content})
        answer, _ = await play(client, "tools/call", tool("run"), given)
        assert answer["result"]["isError"] is True
        assert text_of(answer).startswith("The user's answer does not fit the form: ")
        assert why in text_of(answer)


@IN_FORM_ERAS
async def test_an_answer_that_does_not_fit_can_be_asked_for_again(
    version: str, autojump_clock: MockClock
) -> None:
    async def book(ctx: RequestContext) -> str:
        with pytest.raises(FormInvalid):
            await ctx.elicit("A table?", Struct)
        answer = await ctx.elicit("At least one guest!", Struct)
        return f"{answer.content}"

    given = [{"guests": 0}, {"guests": 1}]

    def one_after_the_other(questions: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: {"action": "accept", "content": given.pop(0)} for key in questions}

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        answer, _ = await play(client, "tools/call", tool("run"), one_after_the_other)
        assert text_of(answer) == "Struct(guests=1, table='in')"


@IN_FORM_ERAS
async def test_a_prompt_tells_its_client_that_the_answer_does_not_fit(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.prompt()
    async def book(ctx: RequestContext) -> str:
        return f"{await ctx.elicit('A table?', Struct)}"

    async with connected(router, version, capabilities=FORMS) as client:
        answer, _ = await play(client, "prompts/get", {"name": "book"}, accept(guests=0))
        assert answer["error"]["code"] == -32603
        assert answer["error"]["message"].startswith("The user's answer does not fit the form: ")


@IN_FORM_ERAS
async def test_forms_of_several_questions_have_their_own_types(
    version: str, autojump_clock: MockClock
) -> None:
    async def book(ctx: RequestContext) -> str:
        one, two = await ctx.ask_all(
            Elicitation("A table?", Struct), Elicitation("A room?", Dictionary)
        )
        return f"{one.content} {two.content}"

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        answer, _ = await play(client, "tools/call", tool("run"), accept(guests=2))
        assert text_of(answer) == "Struct(guests=2, table='in') {'guests': 2}"


@IN_FORM_ERAS
@pytest.mark.parametrize("guests", [0, 2])
async def test_a_form_of_input_required_is_checked_in_the_next_call(
    guests: int, version: str, autojump_clock: MockClock
) -> None:
    question = Elicitation("A table?", Struct, key="table")

    async def book(ctx: RequestContext) -> object:
        answer = ctx.answer_to(question)
        return InputRequired(question) if answer is None else f"{answer.content}"

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        answer, _ = await play(client, "tools/call", tool("run"), accept(guests=guests))
        assert ("isError" in answer["result"]) == (guests == 0)


@IN_FORM_ERAS
async def test_a_class_that_cannot_be_a_form_is_not_sent(
    version: str, autojump_clock: MockClock
) -> None:
    errors: list[TypeError] = []

    async def book(ctx: RequestContext) -> None:
        try:
            await ctx.elicit("Rows?", NoForm)
        except TypeError as error:
            errors.append(error)

    async with connected(with_tool(book), version, capabilities=FORMS) as client:
        _, asked = await play(client, "tools/call", tool("run"))
    assert asked == []
    assert "the field 'rows' of a form cannot be" in str(errors[0])


def test_a_form_is_made_once_for_each_class() -> None:
    assert Elicitation("", Struct) == Elicitation("", Struct)
    other: object = Elicitation("", Attrs)
    assert Elicitation("", Struct) != other
    assert repr(Elicitation("Who?", Struct)) == (
        "Elicitation(message='Who?', schema=<Form of Struct>, key=None)"
    )


# URLs.


@IN_URL_ERAS
@pytest.mark.parametrize("action", ["accept", "decline", "cancel"])
async def test_a_url_is_opened_and_its_end_is_told_where_the_revision_has_it(
    action: str, version: str, autojump_clock: MockClock
) -> None:
    async def pay(ctx: RequestContext) -> str:
        with assert_checkpoints():
            answer = await ctx.elicit_url("Please pay", "https://x.org/pay", elicitation_id="7")
        assert answer.content is None
        with assert_checkpoints():
            await ctx.notify_elicitation_complete("7")
        return answer.action

    async with connected(with_tool(pay), version, capabilities=URLS) as client:
        given = answering({"action": action, "content": {"card": "1234"}})
        if version == M:
            answer, asked = await play(client, "tools/call", tool("run"), given)
            assert client.notes == []
        else:
            answer, asked, told = await until_told(client, given)
            assert told["params"] == {"elicitationId": "7"}
        assert text_of(answer) == action
    expected = {"mode": "url", "message": "Please pay", "url": "https://x.org/pay"}
    if version == D:
        expected["elicitationId"] = "7"
    assert asked == [("elicitation/create", expected)]


async def until_told(client: Client, answer: Any) -> tuple[Any, list[Any], Any]:
    """Call a tool that asks once, and sends one notification then."""
    request_id = await client.ask("tools/call", tool("run"))
    question = await client.receive()
    (result,) = answer({"": question}).values()
    await client.send({"id": question["id"], "result": result})
    message = await client.answer_to(request_id)
    (told,) = client.notes
    assert told["method"] == "notifications/elicitation/complete"
    return message, [(question["method"], question["params"])], told


@pytest.mark.parametrize(
    "version, capabilities, why",
    [
        (A, URLS, "elicitation.url"),
        (B, URLS, "elicitation.url"),
        (C, URLS, "elicitation.url"),
        (D, FORMS, "elicitation.url"),
        (D, {"elicitation": {"form": {}}}, "elicitation.url"),
        (D, {}, "elicitation.url"),
    ],
)
@pytest.mark.parametrize("how", ["ask", "raise", "return"])
async def test_a_client_that_cannot_open_urls_is_not_asked(
    how: str, version: str, capabilities: Any, why: str, autojump_clock: MockClock
) -> None:
    question = UrlElicitation("Pay", "https://x.org/", key="pay")

    async def pay(ctx: RequestContext) -> object:
        if how == "ask":
            await ctx.elicit_url("Pay", "https://x.org/")
        if how == "return":
            return InputRequired(question)
        raise UrlElicitationRequired(question)

    async with connected(with_tool(pay), version, capabilities=capabilities) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert asked == []
        assert answer["result"]["isError"] is True
        assert text_of(answer).endswith(f"did not declare the capability {why}")


@pytest.mark.parametrize("how", ["ask", "raise", "return"])
async def test_a_client_without_sessions_is_told_what_it_would_have_to_declare(
    how: str, autojump_clock: MockClock
) -> None:
    async def pay(ctx: RequestContext) -> object:
        if how == "ask":
            await ctx.elicit_url("Pay", "https://x.org/")
        if how == "return":
            return InputRequired(UrlElicitation("Pay", "https://x.org/", key="pay"))
        raise UrlElicitationRequired(UrlElicitation("Pay", "https://x.org/"))

    async with connected(with_tool(pay), M, capabilities=FORMS) as client:
        error = await client.refused("tools/call", tool("run"))
        assert error["code"] == -32021
        assert error["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


async def test_a_retry_must_declare_urls_too(autojump_clock: MockClock) -> None:
    async def pay(ctx: RequestContext) -> str:
        return (await ctx.elicit_url("Pay", "https://x.org/")).action

    async with connected(with_tool(pay), M, capabilities=URLS) as client:
        first = await client.answer_to(await client.ask("tools/call", tool("run")))
        state = first["result"]["requestState"]
        other = dict(client.envelope or {})
        client.envelope = {
            key: FORMS if "apabilities" in key else one for key, one in other.items()
        }
        error = await client.refused("tools/call", {**tool("run"), "requestState": state})
        assert error["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


@IN_URL_ERAS
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("method", ["tools/call", "prompts/get"])
async def test_a_url_is_required_and_the_request_sent_again(
    method: str, grouped: bool, version: str, autojump_clock: MockClock
) -> None:
    """The handler begins anew, and looks whether the user is done."""
    paid = False
    router = Router("test")
    required = UrlElicitationRequired(
        UrlElicitation("Pay", "https://x.org/", elicitation_id="1"),
        UrlElicitation("Sign", "https://x.org/sign", elicitation_id="2", key="sign"),
    )

    async def fail() -> None:
        raise required

    @router.prompt(name="run")
    @router.tool(name="run")
    async def run() -> str:
        if paid:
            return "paid"
        if grouped:
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112
                nursery.start_soon(fail)
        raise required

    async with connected(router, version, capabilities=URLS) as client:
        params: dict[str, Any] = {"name": "run"}
        message = await client.answer_to(await client.ask(method, params))
        if version == M:
            asked = message["result"]["inputRequests"]
            assert {key: one["params"]["url"] for key, one in asked.items()} == {
                "1": "https://x.org/",
                "sign": "https://x.org/sign",
            }
            assert all("elicitationId" not in one["params"] for one in asked.values())
            params["inputResponses"] = {key: {"action": "accept"} for key in asked}
            assert "requestState" not in message["result"]
        else:
            assert message["error"]["code"] == -32042
            assert message["error"]["data"] == {
                "elicitations": [
                    {
                        "mode": "url",
                        "message": "Pay",
                        "url": "https://x.org/",
                        "elicitationId": "1",
                    },
                    {
                        "mode": "url",
                        "message": "Sign",
                        "url": "https://x.org/sign",
                        "elicitationId": "2",
                    },
                ]
            }
        paid = True
        assert "paid" in str(await client.request(method, params))


async def test_other_errors_beside_a_required_url_are_not_hidden(
    autojump_clock: MockClock,
) -> None:
    router = Router("test")

    @router.prompt()
    async def run() -> str:
        required = UrlElicitationRequired(UrlElicitation("Pay", "https://x.org/"))
        raise ExceptionGroup("both", [required, KeyError("other")])

    async with connected(router, D, capabilities=URLS) as client:
        assert (await client.refused("prompts/get", {"name": "run"}))["code"] == -32603
        assert isinstance(await client.crash(), ExceptionGroup)


async def test_a_session_tells_the_end_of_a_url_after_the_request(
    autojump_clock: MockClock,
) -> None:
    async with connected(Router("test"), D, capabilities=URLS) as client:
        with assert_checkpoints():
            await notify_elicitation_complete(client.session, "7")
        assert await client.receive() == {
            "method": "notifications/elicitation/complete",
            "params": {"elicitationId": "7"},
        }


@pytest.mark.parametrize("version", VERSIONS[:-1])
async def test_earlier_revisions_are_not_told_the_end_of_a_url(
    version: str, autojump_clock: MockClock
) -> None:
    async with connected(Router("test"), version) as client:
        with assert_checkpoints():
            await notify_elicitation_complete(client.session, "7")
        assert await client.request("ping") == {}
        assert client.notes == []


async def test_a_session_without_a_client_sends_nothing(
    autojump_clock: MockClock,
) -> None:
    async with connected(Router("test")) as client:
        session: Session = await client.manager.create_session()
        with pytest.raises(NoChannel):
            await notify_elicitation_complete(session, "7")


@pytest.mark.parametrize(
    "url", ["", "x", "/x", "https:", "https:///x", "https://x y", "https://x\n", "mailto:a@b", None]
)
def test_a_text_that_is_not_a_url_is_refused(url: Any) -> None:
    with pytest.raises(ValueError, match="url must be a URL such as"):
        UrlElicitation("Pay", url)


def test_an_id_is_chosen_for_each_url() -> None:
    one, two = UrlElicitation("Pay", "https://x/"), UrlElicitation("Pay", "https://x/")
    assert one.elicitation_id != two.elicitation_id
    assert one.key is None


def test_nothing_required_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a UrlElicitation"):
        UrlElicitationRequired()


# Models with tools.

TOOL = {"name": "add", "inputSchema": {"type": "object"}}


@IN_URL_ERAS
async def test_a_model_is_given_tools(version: str, autojump_clock: MockClock) -> None:
    async def think(ctx: RequestContext) -> str:
        reply = await ctx.sample([], max_tokens=5, tools=[TOOL], tool_choice="required")
        return str(reply["stopReason"])

    async with connected(with_tool(think), version, capabilities=MODELS) as client:
        reply = answering({"stopReason": "toolUse"})
        answer, asked = await play(client, "tools/call", tool("run"), reply)
        assert text_of(answer) == "toolUse"
    ((_, params),) = asked
    assert params == {
        "messages": [],
        "maxTokens": 5,
        "tools": [TOOL],
        "toolChoice": {"mode": "required"},
    }


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("with_tools", [{"tools": []}, {"tool_choice": "none"}, {"toolChoice": {}}])
async def test_a_client_whose_model_has_no_tools_is_not_asked(
    with_tools: dict[str, Any], version: str, autojump_clock: MockClock
) -> None:
    async def think(ctx: RequestContext) -> str:
        return f"{await ctx.sample([], max_tokens=5, **with_tools)}"

    knows: dict[str, Any] = {"sampling": {}} if version in WITH_URLS else MODELS
    async with connected(with_tool(think), version, capabilities=knows) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert asked == []
        if version == M:
            needs: object = {"requiredCapabilities": {"sampling": {"tools": {}}}}
            assert answer["error"]["data"] == needs
        else:
            assert text_of(answer).endswith("the capability sampling.tools")


async def test_an_unknown_tool_choice_is_refused(autojump_clock: MockClock) -> None:
    async def think(ctx: RequestContext) -> str:
        choice: Any = "always"
        with pytest.raises(ValueError, match="'tool_choice' must be in"):
            await ctx.sample([], max_tokens=5, tool_choice=choice)
        return "refused"

    async with connected(with_tool(think), D, capabilities=MODELS) as client:
        assert text_of({"result": await client.call("run")}) == "refused"
