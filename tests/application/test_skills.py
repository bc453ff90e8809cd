"""Skills, as their clients see them."""

from __future__ import annotations

import threading
from base64 import b64decode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pytest
import trio

from trio_mcp_session import (
    CacheHint,
    CallNext,
    Component,
    Depends,
    RequestContext,
    Router,
    Skill,
    SkillFiles,
    SkillLimits,
)

from .client import ERAS, Client, D, M, connected
from .test_skill_folder import skill

EXTENSION = "io.modelcontextprotocol/skills"
IN_BOTH = pytest.mark.parametrize("version", [D, M])


def report_router(**options: Any) -> Router:
    """A router with a skill of a function."""
    router = Router("reports", **options)

    @router.skill(prefix="acme/office", front_matter={"license": "MIT", "metadata": {"v": "1.0"}})
    def daily_report() -> SkillFiles:
        """Writes the report of the day: use it when asked."""
        return {
            "SKILL.md": "# Report\n\nÄ",
            "assets/form.txt": b"Form:",
            "assets/more/a b.bin": b"\xff\0",
        }

    return router


URI = "skill://acme/office/daily-report/SKILL.md"
ROOT = URI.removesuffix("/SKILL.md")
TEXT = (
    "---\nname: daily-report\n"
    'description: "Writes the report of the day: use it when asked."\n'
    'license: MIT\nmetadata: {"v":"1.0"}\n---\n\n# Report\n\nÄ'
)


async def listed(client: Client) -> list[str]:
    return [entry["uri"] for entry in (await client.request("skills/list"))["skills"]]


async def read(client: Client, uri: str) -> Any:
    (contents,) = (await client.request("resources/read", {"uri": uri}))["contents"]
    return contents


async def folder(client: Client, uri: str, **params: Any) -> list[str]:
    found = await client.request("resources/directory/read", {"uri": uri, **params})
    return [one["uri"] for one in found["resources"]]


async def check_digests(client: Client, entry: Mapping[str, Any]) -> None:
    """Do what a client has to do before it uses a skill."""
    uris = [one["uri"] for one in entry["resources"]]
    assert entry["uri"] in uris
    assert len(set(uris)) == len(uris)
    for one in entry["resources"]:
        contents = await read(client, one["uri"])
        assert contents["uri"] == one["uri"]
        data = contents["text"].encode() if "text" in contents else b64decode(contents["blob"])
        assert len(data) == one["size"]
        assert f"sha256:{sha256(data).hexdigest()}" == one["digest"]


async def test_the_server_declares_the_extension() -> None:
    router = report_router(extensions={"com.example/search": {}, EXTENSION: {"own": 1}})
    async with connected(router, M) as client:
        capabilities = client.greeting["capabilities"]
    assert capabilities["resources"] == {"listChanged": True}
    assert capabilities["extensions"] == {
        "com.example/search": {},
        EXTENSION: {"own": 1, "directoryRead": True},
    }


async def test_a_server_without_skills_does_not_declare_the_extension() -> None:
    router = Router("none")

    @router.resource("a://b")
    async def a() -> str:
        return "a"  # pragma: no cover

    async with connected(router, M) as client:
        assert "extensions" not in client.greeting["capabilities"]
        for method in ("skills/list", "skills/get", "resources/directory/read"):
            assert (await client.refused(method, {"uri": "a://b"}))["code"] == -32601


async def test_entries_say_everything_of_a_skill() -> None:
    async with connected(report_router(), M) as client:
        found = await client.request("skills/list")
        (entry,) = found.pop("skills")
        assert found == {"ttlMs": 0, "cacheScope": "private"}
        assert entry["uri"] == URI
        assert entry["frontmatter"] == {
            "name": "daily-report",
            "description": "Writes the report of the day: use it when asked.",
            "license": "MIT",
            "metadata": {"v": "1.0"},
        }
        assert [one["uri"] for one in entry["resources"]] == [
            URI,
            f"{ROOT}/assets/form.txt",
            f"{ROOT}/assets/more/a%20b.bin",
        ]
        await check_digests(client, entry)
        one = await client.request("skills/get", {"uri": URI})
        assert one == {"skill": entry, "ttlMs": 0, "cacheScope": "private"}


@pytest.mark.parametrize("version", ERAS)
async def test_files_are_resources_in_all_revisions(version: str) -> None:
    async with connected(report_router(), version) as client:
        (resource,) = (await client.request("resources/list"))["resources"]
        assert resource == {
            "uri": URI,
            "name": "daily-report",
            "description": "Writes the report of the day: use it when asked.",
            "mimeType": "text/markdown",
        }
        assert await read(client, URI) == {"uri": URI, "mimeType": "text/markdown", "text": TEXT}
        form = f"{ROOT}/assets/form.txt"
        assert await read(client, form) == {"uri": form, "mimeType": "text/plain", "text": "Form:"}
        other = f"{ROOT}/assets/more/a%20b.bin"
        found = await read(client, other)
        assert found == {"uri": other, "mimeType": "application/octet-stream", "blob": "/wA="}
        assert (await client.request("resources/templates/list"))["resourceTemplates"] == []


async def test_revisions_with_a_handshake_do_not_have_the_methods() -> None:
    for router in (report_router(), mounting(report_router())):
        async with connected(router, D) as client:
            assert "extensions" not in client.greeting["capabilities"]
            for method in ("skills/list", "skills/get", "resources/directory/read"):
                error = await client.refused(method, {"uri": URI})
                assert error["code"] == -32601


UNKNOWN = [
    "skill://acme/office/daily-report",
    "skill://acme/office/daily-report/",
    f"{ROOT}/nothing",
    f"{ROOT}/skill.md",
    f"{ROOT}/assets",
    f"{ROOT}//SKILL.md",
    f"{ROOT}/./SKILL.md",
    f"{ROOT}/assets/../SKILL.md",
    f"{ROOT}/assets%2Fform.txt",
    f"{ROOT}/%53KILL.md",
    f"{ROOT}/SKILL.md/",
    f"{ROOT}/SKILL.md?a",
    f"{ROOT}/SKILL.md%00",
    f"{ROOT}/assets/more/a b.bin",
    "skill://acme/office/daily-reports/SKILL.md",
    "SKILL://acme/office/daily-report/SKILL.md",
    "skill://acme/Office/daily-report/SKILL.md",
    "skill://other/SKILL.md",
    "file:///etc/passwd",
    f"{ROOT}/{'a' * 10_240}",
    f"{ROOT}{'/..' * 3_000}/etc/passwd",
    f"skill://{'a/' * 5_000}SKILL.md",
    "",
]


def mounting(router: Router, prefix: str = "") -> Router:
    outer = Router("outer")
    outer.mount(router, prefix=prefix)
    return outer


@pytest.mark.parametrize("mounted", [False, True])
async def test_uris_that_no_skill_has(mounted: bool) -> None:
    router = mounting(report_router()) if mounted else report_router()
    async with connected(router, M) as client:
        for uri in UNKNOWN:
            for method in ("resources/read", "skills/get"):
                error = await client.refused(method, {"uri": uri})
                assert error["code"] == -32602, (method, uri)
        assert (await client.refused("skills/get", {"uri": f"{ROOT}/assets/form.txt"}))[
            "message"
        ].startswith("No skill has the URI")
        for params in ({}, {"uri": 1}, {"uri": None}):
            for method in ("resources/read", "skills/get", "resources/directory/read"):
                error = await client.refused(method, params)
                assert (error["code"], error["message"]) == (-32602, "uri must be a string")


async def test_files_that_do_not_exist_up_to_2025_11_25() -> None:
    async with connected(report_router(), D) as client:
        error = await client.refused("resources/read", {"uri": f"{ROOT}/nothing"})
        assert error["code"] == -32002


@pytest.mark.parametrize("mounted", [False, True])
async def test_folders_are_read(mounted: bool) -> None:
    router = mounting(report_router()) if mounted else report_router()
    async with connected(router, M) as client:
        found = await client.request("resources/directory/read", {"uri": ROOT})
        assert found == {
            "resources": [
                {
                    "uri": URI,
                    "name": "SKILL.md",
                    "mimeType": "text/markdown",
                    "size": len(TEXT.encode()),
                },
                {"uri": f"{ROOT}/assets", "name": "assets", "mimeType": "inode/directory"},
            ]
        }
        assert await folder(client, f"{ROOT}/assets") == [
            f"{ROOT}/assets/form.txt",
            f"{ROOT}/assets/more",
        ]
        # The folders above skills, too.
        assert await folder(client, "skill://acme") == ["skill://acme/office"]
        assert await folder(client, "skill://acme/office") == [ROOT]
        for uri in (URI, f"{ROOT}/", f"{ROOT}/nothing", f"{ROOT}/assets/", "skill://ac", "skill:"):
            error = await client.refused("resources/directory/read", {"uri": uri})
            assert error["code"] == -32602
            assert error["message"].startswith("Not a directory: ")


@pytest.mark.parametrize("mounted", [False, True])
async def test_lists_come_in_pages(mounted: bool) -> None:
    router = report_router(page_size=1)

    @router.skill(prefix="acme", description="Another one.")
    async def other() -> str:
        return "# Other"

    if mounted:
        outer = Router("outer", page_size=1)
        outer.mount(router)
        router = outer
    async with connected(router, M) as client:
        for method, member, params in [
            ("skills/list", "skills", {}),
            ("resources/list", "resources", {}),
            ("resources/directory/read", "resources", {"uri": "skill://acme"}),
            ("resources/directory/read", "resources", {"uri": ROOT}),
        ]:
            first = await client.request(method, params)
            rest = await client.request(method, {**params, "cursor": first["nextCursor"]})
            assert len(first[member]) == len(rest[member]) == 1
            assert first[member] != rest[member]
            assert "nextCursor" not in rest
            error = await client.refused(method, {**params, "cursor": "x"})
            assert error["code"] == -32602


# Functions.


def given() -> str:
    return "given"


async def test_a_function_is_called_for_each_request() -> None:
    router = Router("numbers")
    calls: list[str] = []

    @router.skill("count", description="Counts.")
    async def function(ctx: RequestContext, extra: Annotated[str, Depends(given)]) -> str:
        calls.append(f"{ctx.method} {extra}")
        return f"{len(calls)}"

    async with connected(router, M) as client:
        uri = "skill://count/SKILL.md"
        first = (await client.request("skills/get", {"uri": uri}))["skill"]
        second = (await client.request("skills/get", {"uri": uri}))["skill"]
        assert first["resources"] != second["resources"]
        assert (await read(client, uri))["text"].endswith("---\n\n3")
    assert calls == ["skills/get given", "skills/get given", "resources/read given"]


async def test_a_def_runs_in_a_thread() -> None:
    router = Router("threads", thread_limiter=trio.CapacityLimiter(1))
    threads: list[threading.Thread] = []

    @router.skill(description="Works.")
    def work() -> str:
        threads.append(threading.current_thread())
        return ""

    async with connected(router, M) as client:
        assert await listed(client) == ["skill://work/SKILL.md"]
    assert threads != [threading.main_thread()]


async def test_a_dynamic_skill_has_no_digests_and_is_not_called_for_its_entry() -> None:
    router = Router("dynamic")
    calls: list[str] = []

    @router.skill(description="Of this moment.", dynamic=True)
    async def now(ctx: RequestContext) -> str:
        calls.append(ctx.method)
        return "# Now"

    async with connected(router, M) as client:
        (entry,) = (await client.request("skills/list"))["skills"]
        assert entry["resources"] == "dynamic"
        assert calls == []
        assert await folder(client, "skill://now") == ["skill://now/SKILL.md"]
        assert (await read(client, "skill://now/SKILL.md"))["text"].endswith("# Now")


@pytest.mark.parametrize(
    "returned, error",
    [
        (None, "must return a text or a mapping, not None"),
        ([], "must return a text or a mapping"),
        ({}, "skill 'broken' returns no SKILL.md"),
        ({"a.md": ""}, "skill 'broken' returns no SKILL.md"),
        ({"SKILL.md": b"# Title"}, "SKILL.md must be a text without front matter"),
        ("---\nname: broken\n---\n", "SKILL.md must be a text without front matter"),
        ({"SKILL.md": "", "a": 1}, "the file 'a' must be str or bytes, not 1"),
        ({"SKILL.md": "", 1: "a"}, "the path 1 has"),
        ({"SKILL.md": "", "../a": ""}, "the path '../a' has '..'"),
        ({"SKILL.md": "", "/a": ""}, "the path '/a' has ''"),
        ({"SKILL.md": "", "a//b": ""}, "the path 'a//b' has ''"),
        ({"SKILL.md": "", "C:\\a": ""}, "must not have slashes, backslashes, colons"),
        ({"SKILL.md": "", "a\0": ""}, "control characters"),
        ({"SKILL.md": "", ".env": ""}, "the path '.env' has '.env'"),
        ({"SKILL.md": "", "a": "", "a/b": ""}, "a part of 'a/b' is a file itself"),
        ({"SKILL.md": "", "a/" * 16 + "b": ""}, "is in too many folders"),
        ({"SKILL.md": "", "a": b"x" * (4 * 2**20 + 1)}, "'a' has more than 4194304 bytes"),
        ({"SKILL.md": "", **{f"{n}": "" for n in range(512)}}, "returns more than 512 files"),
        ({"SKILL.md": "", **dict.fromkeys("abcd", b"x" * 2**22)}, "more than 16777216 bytes"),
    ],
)
async def test_what_a_function_must_not_return(
    returned: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = report_router()

    @router.skill(description="Fails.")
    async def broken() -> Any:
        return returned

    async with connected(router, M) as client:
        uri = "skill://broken/SKILL.md"
        assert (await client.refused("skills/get", {"uri": uri}))["code"] == -32603
        assert error in str(await client.crash())
        assert (await client.refused("resources/read", {"uri": uri}))["code"] == -32603
        assert error in str(await client.crash())
        # The others are listed all the same.
        caplog.clear()
        assert await listed(client) == [URI]
        assert error in caplog.text


async def test_a_function_within_its_limits() -> None:
    router = Router("large")
    data = b"x" * 2**22

    @router.skill(description="Is large.")
    async def large() -> SkillFiles:
        files = {f"{number}": "" for number in range(509)}
        return {"SKILL.md": "", **files, "z": data, "a/" * 15 + "b": ""}

    async with connected(router, M) as client:
        (entry,) = (await client.request("skills/list"))["skills"]
        assert len(entry["resources"]) == 512
        assert entry["resources"][-1]["size"] == 2**22


# Registration.


def returns_text() -> str:
    """Does things."""
    raise AssertionError  # pragma: no cover


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"name": "A"}, "the name 'A' must be 1 to 64 characters"),
        ({"name": ""}, "the name '' must be"),
        ({"name": "a/b"}, "the name 'a/b' must be"),
        ({"description": " "}, "needs a text 'description'"),
        ({"description": "a" * 1025}, "has 1025 characters"),
        ({"prefix": "../a"}, "the prefix '../a' has '..'"),
        ({"prefix": "/a"}, "the prefix '/a' has ''"),
        ({"front_matter": {"name": "b"}}, "pass name= instead of front_matter"),
        ({"front_matter": {"a": 1e22}}, "parsers of YAML read differently"),
        ({"front_matter": {"metadata": {"io.modelcontextprotocol/a": "b"}}}, "reserved"),
    ],
)
def test_what_is_refused_at_the_decorator(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Router("r").skill(**arguments)(returns_text)


def test_functions_that_are_refused_at_the_decorator() -> None:
    router = Router("r")

    def no_description() -> str:
        raise AssertionError  # pragma: no cover

    def argument(city: str) -> str:
        raise AssertionError  # pragma: no cover

    class NoName:
        def __call__(self) -> str:
            raise AssertionError  # pragma: no cover

    with pytest.raises(ValueError, match="skill 'no-description' needs a description"):
        router.skill()(no_description)
    with pytest.raises(TypeError, match="skill 'argument' takes 'city': its function may take"):
        router.skill(description="x")(argument)
    with pytest.raises(TypeError, match="has no __name__: pass name= to the decorator"):
        router.skill(description="x")(NoName())
    with pytest.raises(TypeError, match="with parentheses"):
        router.skill(returns_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        router.skill(front_matter={"a": object()})(returns_text)
    assert router.skills == {}
    assert not router.handles_request("skills/list")


def test_skills_are_registered_and_removed() -> None:
    router = report_router()
    assert list(router.skills) == [URI]
    one = router.skills[URI]
    assert isinstance(one, Skill)
    assert (one.uri, one.name, one.is_template) == (URI, "daily-report", False)
    assert repr(one) == f"<Skill {URI!r}>"
    assert router.resources == {}
    router.remove_skill(URI)
    assert router.skills == {}
    with pytest.raises(KeyError):
        router.remove_skill(URI)
    assert router.handles_request("skills/list")  # Clients know that the server has skills.


async def test_a_removed_skill_is_gone() -> None:
    router = report_router()
    async with connected(router, M) as client:
        router.remove_skill(URI)
        assert await listed(client) == []
        assert (await client.refused("resources/read", {"uri": URI}))["code"] == -32602
        assert client.greeting["capabilities"]["extensions"]


def test_one_uri_has_one_meaning() -> None:
    router = report_router()
    with pytest.raises(ValueError, match=f"a skill '{URI}' exists already"):
        router.skill("daily-report", prefix="acme/office")(returns_text)
    with pytest.raises(ValueError, match=f"a resource '{URI}' exists already"):
        router.resource(URI)(returns_text)
    router.resource("skill://a/SKILL.md")(returns_text)
    with pytest.raises(ValueError, match=r"a resource 'skill://a/SKILL\.md' exists already"):
        router.skill("a")(returns_text)


@pytest.mark.parametrize("prefix, name", [("acme", "office"), ("acme/office/daily-report/x", "y")])
def test_a_skill_inside_of_another_one_belongs_to_its_files(prefix: str, name: str) -> None:
    router = report_router()
    with pytest.raises(ValueError, match="choose another prefix"):
        router.skill(name, prefix=prefix)(returns_text)
    inner = Router("inner")
    inner.skill(name, prefix=prefix)(returns_text)
    with pytest.raises(ValueError, match="choose another prefix"):
        router.mount(inner)
    with pytest.raises(ValueError, match="choose another prefix"):
        mounting(router).mount(inner)
    router.mount(inner, prefix="else")


def test_a_method_of_skills_may_have_a_handler_of_its_own() -> None:
    router = Router("own", extensions={EXTENSION: {}})

    @router.request("skills/list")
    async def own(ctx: RequestContext) -> dict[str, Any]:
        raise AssertionError  # pragma: no cover

    with pytest.raises(ValueError, match="skills/list has a handler of its own already"):
        router.skill()(returns_text)
    assert router.skills == {}


# Structure.


async def test_mounted_skills_have_the_prefix_in_all_uris() -> None:
    outer = mounting(mounting(report_router(), "inner"), "outer")
    root = "skill://outer/inner/acme/office/daily-report"
    async with connected(outer, M) as client:
        assert client.greeting["capabilities"]["extensions"] == {EXTENSION: {"directoryRead": True}}
        (entry,) = (await client.request("skills/list"))["skills"]
        assert entry["uri"] == f"{root}/SKILL.md"
        await check_digests(client, entry)
        assert await client.request("skills/get", {"uri": entry["uri"]}) == {
            "skill": entry,
            "ttlMs": 0,
            "cacheScope": "private",
        }
        assert await folder(client, root) == [f"{root}/SKILL.md", f"{root}/assets"]
        assert await folder(client, "skill://outer") == ["skill://outer/inner"]
        for uri in (URI, f"{ROOT}/assets/form.txt"):
            assert (await client.refused("resources/read", {"uri": uri}))["code"] == -32602
        (resource,) = (await client.request("resources/list"))["resources"]
        assert resource["uri"] == entry["uri"]


async def test_other_resources_are_not_skills() -> None:
    router = mounting(report_router())
    router.resource("skill://acme/office/other/SKILL.md")(returns_text)
    async with connected(router, M) as client:
        assert await listed(client) == [URI]
        assert len((await client.request("resources/list"))["resources"]) == 2
        other = "skill://acme/office/other/SKILL.md"
        assert (await client.refused("skills/get", {"uri": other}))["code"] == -32602
        assert (await client.refused("resources/directory/read", {"uri": other}))["code"] == -32602
        assert await folder(client, "skill://acme/office") == [ROOT]


async def assert_hidden(client: Client) -> None:
    assert await listed(client) == []
    assert (await client.request("resources/list"))["resources"] == []
    for method, uri in [
        ("skills/get", URI),
        ("resources/read", URI),
        ("resources/read", f"{ROOT}/assets/form.txt"),
        ("resources/directory/read", ROOT),
        ("resources/directory/read", f"{ROOT}/assets"),
        ("resources/directory/read", "skill://acme"),
    ]:
        assert (await client.refused(method, {"uri": uri}))["code"] == -32602, (method, uri)


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_hidden_skill_is_hidden_with_all_of_its_files(mounted: bool) -> None:
    inner = report_router()
    router = mounting(inner) if mounted else inner
    async with connected(router, M) as client:
        for hiding in (router, inner):
            hiding.disable(resources=URI)
            await assert_hidden(client)
            hiding.enable(resources=URI)
            assert await listed(client) == [URI]
            assert (await read(client, f"{ROOT}/assets/form.txt"))["text"] == "Form:"


async def test_a_function_decides_which_skills_a_request_sees() -> None:
    router = report_router(cache_hints={"skills/list": CacheHint(max_age=9, scope="public")})
    asked: list[Component] = []
    answer = False

    @router.visible
    def visible(ctx: RequestContext, component: Component) -> bool:
        asked.append(component)
        return answer

    async with connected(router, M) as client:
        await assert_hidden(client)
        answer = True
        found = await client.request("skills/list")
        assert len(found["skills"]) == 1
        assert (found["ttlMs"], found["cacheScope"]) == (9000, "private")
    assert {(one.feature, one.name, one.item) for one in asked} == {
        ("resources", URI, router.skills[URI])
    }


async def test_hints_say_how_long_entries_may_be_kept() -> None:
    hints = {
        "skills/list": CacheHint(max_age=9, scope="public"),
        "skills/get": CacheHint(max_age=8),
    }
    for router in (report_router(cache_hints=hints), mounting(report_router(cache_hints=hints))):
        async with connected(router, M) as client:
            found = await client.request("skills/list")
            assert (found["ttlMs"], found["cacheScope"]) == (9000, "public")
            found = await client.request("skills/get", {"uri": URI})
            assert (found["ttlMs"], found["cacheScope"]) == (8000, "private")
            assert "ttlMs" not in await client.request("resources/directory/read", {"uri": ROOT})


async def test_middleware_is_around_requests_for_skills() -> None:
    inner = report_router()
    router = mounting(inner)
    seen: list[str] = []

    @router.middleware
    async def outer_one(ctx: RequestContext, call_next: CallNext) -> object:
        seen.append(f"outer {ctx.method}")
        return await call_next()

    @inner.middleware
    async def inner_one(ctx: RequestContext, call_next: CallNext) -> object:
        seen.append(f"inner {ctx.method}")
        return await call_next()

    async with connected(router, M) as client:
        await listed(client)
        await client.request("skills/get", {"uri": URI})
        await folder(client, ROOT)
        await folder(client, "skill://acme")
        await client.refused("skills/get", {"uri": "skill://x/SKILL.md"})
        await read(client, URI)
    assert seen == [
        "outer skills/list",
        "outer skills/get",
        "inner skills/get",
        "outer resources/directory/read",
        "inner resources/directory/read",
        "outer resources/directory/read",
        "outer skills/get",
        "outer resources/read",
        "inner resources/read",
    ]


# Folders.


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    root = tmp_path / "skills"
    skill(root / "refunds", references__letter="Dear", **{"é ü.bin": b"\xff"})
    skill(root / "refunds" / "inner" / "nested", x="y")
    skill(root / "git-workflow")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    return root


async def test_the_skills_of_a_folder_are_served(skills: Path) -> None:
    router = Router("folder", thread_limiter=trio.CapacityLimiter(1))
    found = router.skills_from(skills, prefix="acme")
    assert found == (
        "skill://acme/git-workflow/SKILL.md",
        "skill://acme/refunds/SKILL.md",
        "skill://acme/refunds/inner/nested/SKILL.md",
    )
    for served in (router, mounting(router)):
        async with connected(served, M) as client:
            entries = (await client.request("skills/list"))["skills"]
            assert [entry["uri"] for entry in entries] == list(found)
            for entry in entries:
                await check_digests(client, entry)
            # The files of a skill inside are files of both.
            assert {one["uri"] for one in entries[2]["resources"]} < {
                one["uri"] for one in entries[1]["resources"]
            }
            letter = "skill://acme/refunds/references/letter"
            assert await read(client, letter) == {
                "uri": letter,
                "mimeType": "text/plain",
                "text": "Dear",
            }
            assert await folder(client, "skill://acme/refunds") == [
                "skill://acme/refunds/SKILL.md",
                "skill://acme/refunds/inner",
                "skill://acme/refunds/references",
                "skill://acme/refunds/%C3%A9%20%C3%BC.bin",
            ]
            for uri in (
                "skill://acme/refunds/../../../secret.txt",
                "skill://acme/refunds/%2e%2e/%2e%2e/secret.txt",
                "skill://acme/refunds/..%2F..%2Fsecret.txt",
                "skill://acme/refunds/%C3%A9%20%C3%BC.BIN",
            ):
                error = await client.refused("resources/read", {"uri": uri})
                assert error["code"] == -32602


async def test_a_folder_that_is_a_skill(skills: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = Router("folder")
    monkeypatch.chdir(skills)
    assert router.skills_from("refunds") == (
        "skill://refunds/SKILL.md",
        "skill://refunds/inner/nested/SKILL.md",
    )
    async with connected(router, M) as client:
        assert (await read(client, "skill://refunds/inner/nested/x"))["text"] == "y"


async def test_a_skill_inside_of_another_one_may_be_hidden_alone(skills: Path) -> None:
    router = Router("folder")
    outer, nested = router.skills_from(skills / "refunds")
    async with connected(router, M) as client:
        router.disable(resources=nested)
        assert await listed(client) == [outer]
        # It is a file of the other skill still.
        assert "nested" in (await read(client, nested))["text"]
        router.enable(resources=nested)
        router.disable(resources=outer)
        assert await listed(client) == [nested]
        assert (await client.refused("resources/read", {"uri": outer}))["code"] == -32602


async def test_changes_in_a_folder_are_served(skills: Path) -> None:
    router = Router("folder")
    uri = router.skills_from(skills / "git-workflow")[0]
    async with connected(router, M) as client:
        before = (await client.request("skills/get", {"uri": uri}))["skill"]
        file = skills / "git-workflow" / "SKILL.md"
        file.write_text("---\nname: git-workflow\ndescription: New.\n---\n", encoding="utf-8")
        after = (await client.request("skills/get", {"uri": uri}))["skill"]
        assert before["resources"] != after["resources"]
        assert after["frontmatter"]["description"] == "New."
        (resource,) = (await client.request("resources/list"))["resources"]
        assert resource["description"] == "New."


async def test_a_skill_that_no_longer_conforms_is_left_out(
    skills: Path, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router("folder")
    router.skills_from(skills)
    (skills / "git-workflow" / "SKILL.md").write_text("# Title\n", encoding="utf-8")
    (skills / "refunds" / "link").symlink_to("../../secret.txt")
    async with connected(router, M) as client:
        for _ in range(3):
            assert await listed(client) == ["skill://refunds/inner/nested/SKILL.md"]
        assert [one.message.partition(": the skill in")[0] for one in caplog.records] == [
            "the skill 'skill://git-workflow/SKILL.md' is left out of skills/list",
            "the skill 'skill://refunds/SKILL.md' is left out of skills/list",
        ]
        error = await client.refused("skills/get", {"uri": "skill://refunds/SKILL.md"})
        assert error == {"code": -32603, "message": "Internal error"}
        assert "is a symbolic link" in str(await client.crash())
        error = await client.refused("resources/read", {"uri": "skill://refunds/link"})
        assert error["code"] == -32602
        assert (await read(client, "skill://refunds/references/letter"))["text"] == "Dear"


def test_what_is_refused_of_a_folder(skills: Path, tmp_path: Path) -> None:
    router = Router("folder")
    with pytest.raises(FileNotFoundError):
        router.skills_from(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has a SKILL\.md"):
        (tmp_path / "empty").mkdir()
        router.skills_from(tmp_path / "empty")
    with pytest.raises(ValueError, match="the prefix"):
        router.skills_from(skills, prefix="..")
    with pytest.raises(ValueError, match="has more than 2 skills"):
        router.skills_from(skills, limits=SkillLimits(max_skills=2))
    (skills / "git-workflow" / "SKILL.md").write_text("---\nname: x\n---\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the name 'x' must be the name of its folder"):
        router.skills_from(skills)
    assert router.skills == {}
    router.skills_from(skills / "refunds")
    with pytest.raises(ValueError, match="choose another prefix"):
        router.skills_from(skills / "refunds", prefix="refunds")
    with pytest.raises(ValueError, match="exists already"):
        router.skills_from(skills / "refunds")
