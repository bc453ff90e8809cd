"""How the project is checked. `nox --list` shows the sessions; CONTRIBUTING.md tells more."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
# A Python that is not there is skipped, on CI too, and never looked for on the network.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
# The suite once, on the oldest Python. `.ci/run` runs the others, too.
nox.options.sessions = ["lint", "typing", "typing_compat", "coverage", "docs", "build"]
# One process for each core; a session's own arguments come later, so that `-- -n 0` undoes it.
IN_PARALLEL = ("-n", "auto", "--dist", "worksteal")
# Named one by one: the virtual environment of a contributor may lie anywhere else.
CODE = ["trio_mcp_session", "tests", "examples", "benchmarks", "noxfile.py"]
CODE += ["docs/conf.py", "docs/generate.py", "docs/generator", "docs/picture.py", "release"]
PROSE = ["docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]

# In this flat layout `python -m pytest` and `coverage run` would import the checkout instead of
# what was installed: files that a wheel lacks would go unnoticed, and the coverage be of another
# copy. Subprocesses of the tests inherit it.
INSTALLED_ONLY = {"PYTHONSAFEPATH": "1"}


def group(*names: str) -> list[str]:
    """The requirements of dependency groups, for both backends and any pip."""
    return list(nox.project.dependency_groups(PROJECT, *names))


def package_to_test(session: nox.Session) -> tuple[str, list[str]]:
    """What to install, and the arguments left for pytest: `-- --installpkg WHEEL ...`."""
    arguments = list(session.posargs)
    if "--installpkg" not in arguments:
        return ".", arguments
    at = arguments.index("--installpkg")
    package = arguments[at + 1]
    del arguments[at : at + 2]
    return package, arguments


def empty_folder(session: nox.Session, name: str) -> Path:
    """A new folder inside the session's environment, hence outside of what is checked in."""
    folder = Path(session.virtualenv.location).resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Style, formatting, async pitfalls, spelling and refused words."""
    session.install(*group("lint"))
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("flake8", *(path for path in CODE if path != "tests"))
    session.run("codespell", *CODE, *PROSE)
    session.run("python", "-m", "tests.words")


@nox.session(default=False, tags=["slow"])
def lint_tests(session: nox.Session) -> None:
    """Async pitfalls in the tests: what `lint` does not do, as it takes a minute."""
    session.install(*group("lint"))
    session.run("flake8", "tests")


@nox.session(tags=["check"])
def typing(session: nox.Session) -> None:
    """Mypy and pyright, and whether every public name has a type."""
    session.install(".", *group("typing"))
    session.run("mypy", *CODE)
    session.run("pyright")
    # From elsewhere, or it would not look at the installed package.
    with session.chdir(empty_folder(session, "elsewhere")):
        session.run("pyright", "--verifytypes", "trio_mcp_session", "--ignoreexternal")


@nox.session(tags=["check"])
def typing_compat(session: nox.Session) -> None:
    """The public types and `task_status` as users of trio-typing see them."""
    session.install(".", *group("typing-compat"))
    folder = empty_folder(session, "downstream")
    for name in ("api.py", "runtime_task_status.py"):
        shutil.copy(ROOT / "tests" / "typing" / name, folder)
    (folder / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nplugins = trio_typing.plugin\n", encoding="utf-8"
    )
    # From elsewhere, so that the package is somebody else's, as it is for them.
    with session.chdir(folder):
        session.run("mypy", "api.py", "runtime_task_status.py")
        session.run(
            *("pytest", "--config-file", str(ROOT / "pyproject.toml"), "--rootdir=."),
            "runtime_task_status.py",
            env=INSTALLED_ONLY,
        )


@nox.session(python=PYTHONS, tags=["test"])
def tests(session: nox.Session) -> None:
    """The suite against the installed package, on every supported Python that is there."""
    package, arguments = package_to_test(session)
    session.install(package, *group("tests"))
    session.run("pytest", *IN_PARALLEL, *arguments, env=INSTALLED_ONLY)


@nox.session(python=PYTHONS[0], tags=["test"])
def coverage(session: nox.Session) -> None:
    """The test suite under coverage: 100 % of the branches, of the tests too."""
    session.install(".", *group("coverage"))
    session.run("coverage", "erase")
    arguments = session.posargs or ["--ignore", "tests/leaks"]
    session.run("coverage", "run", "-m", "pytest", *IN_PARALLEL, *arguments, env=INSTALLED_ONLY)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    if not session.posargs:  # They run many times what the others have shown; that takes long.
        session.run("pytest", *IN_PARALLEL, "tests/leaks", env=INSTALLED_ONLY)


@nox.session(python=PYTHONS[0], venv_backend="uv", tags=["test"])
def minimums(session: nox.Session) -> None:
    """The test suite with the oldest supported dependencies."""
    session.install("--resolution=lowest-direct", ".", *group("tests"))
    session.run("uv", "pip", "list", external=True)
    session.run("pytest", *IN_PARALLEL, *session.posargs, env=INSTALLED_ONLY)


@nox.session(tags=["check"])
def docs(session: nox.Session) -> None:
    """The documentation as HTML, without a single warning, and its examples."""
    session.install(".", *group("docs"))
    for builder in ("html", "doctest"):
        session.run(
            "sphinx-build",
            *("-T", "-E", "-W", "-n", "--keep-going"),
            *("-b", builder),
            *("-d", "docs/_build/doctrees"),
            *("docs", f"docs/_build/{builder}"),
            env=INSTALLED_ONLY,
        )


@nox.session(tags=["test"])
def build(session: nox.Session) -> None:
    """Build sdist and wheel; test the wheel with some of the sdist's tests, away from the checkout.

    Some: what the other sessions install is a wheel, too. Those that look for files.
    """
    session.install("build", *group("tests"))
    folder = empty_folder(session, "unpacked")
    dist = empty_folder(session, "dist")
    # Without options: first the sdist, then the wheel from it.
    session.run("python", "-m", "build", "--outdir", str(dist))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    session.install("--force-reinstall", str(wheel))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    shutil.rmtree(unpacked / "trio_mcp_session")
    with session.chdir(unpacked):
        session.run(
            *("pytest", *IN_PARALLEL),
            *(session.posargs or ["tests/docs", "tests/examples", "tests/typing"]),
            env=INSTALLED_ONLY,
        )


@nox.session(default=False, tags=["slow"])
def interop(session: nox.Session) -> None:
    """Real clients: those of the official SDKs, the MCP Inspector, third-party ones and proxies.

    Needs Node 20 and npm. Each third-party client has an environment of its own, in nox's cache; so
    have the libraries that one of the examples is also written on.
    Pages in Chromium, and nginx, are tested where these are installed.
    """
    session.install(".[http,hypercorn]", *group("tests", "interop"))
    node = {
        "TRIO_MCP_SESSION_NODE_MODULES": node_folder(session, "interop"),
        "TRIO_MCP_SESSION_CLIENTS": str(session.cache_dir.resolve() / "clients"),
    }
    session.run(
        *("pytest", "-m", "interop"),
        *(session.posargs or ["tests/interop"]),
        env=INSTALLED_ONLY | node,
    )


@nox.session(default=False, tags=["slow"])
def conformance(session: nox.Session) -> None:
    """The official conformance suite, over HTTP, on both servers. Needs npm.

    Also against an application of the official SDK that this library serves.
    """
    session.install(".[http,hypercorn,mcp]", *group("tests"))
    node = {"TRIO_MCP_SESSION_NODE_MODULES": node_folder(session, "conformance")}
    session.run("pytest", *(session.posargs or ["tests/conformance"]), env=INSTALLED_ONLY | node)


@nox.session(name="release-check", default=False, tags=["slow"])
def release_check(session: nox.Session) -> None:
    """Everything that a machine can check before a release; it says what is left for a person.

    Builds sdist and wheel, checks them, installs both on every supported Python that is there, and
    runs the demo, the first servers with the official client, and the conformance suite from the
    wheel. Needs npm; `-- --without conformance` leaves a part out.
    """
    session.install("build", "twine >= 6.1")
    session.run(
        "python",
        "release/check.py",
        *("--work", str(empty_folder(session, "release"))),
        *("--node", node_folder(session, "conformance")),
        *session.posargs,
    )


SDKS = ["mcp-2.0", "mcp-2.1", "mcp-2.2", "mcp-2.3", "fastmcp-4.1", "fastmcp-4.2"]
"""The versions of other libraries whose applications are served."""


@nox.session(default=False, tags=["slow"])
@nox.parametrize("library", SDKS, ids=SDKS)
def sdk(session: nox.Session, library: str) -> None:
    """Applications of the official SDK and FastMCP, on each minor version of these.

    The last of them measures the coverage of the adapter: 100 % of the branches.
    """
    name, _, version = library.partition("-")
    session.install(".[http]", *group("coverage"), f"{name}=={version}.*")
    arguments = session.posargs or ["tests/adapters"]
    if session.posargs or library != SDKS[-1]:
        session.run("pytest", *arguments, env=INSTALLED_ONLY)
        return
    settings = ("--rcfile", "tests/adapters/coverage.toml")
    session.run("coverage", "erase", *settings)
    session.run("coverage", "run", *settings, "-m", "pytest", *arguments, env=INSTALLED_ONLY)
    session.run("coverage", "combine", "--quiet", *settings)
    session.run("coverage", "report", *settings)


@nox.session(default=False, tags=["slow"])
def fuzz(session: nox.Session) -> None:
    """Fuzzers: JSON-RPC, headers, HTTP/1.1 against h11, and smuggling through real proxies.

    nginx and HAProxy are skipped where they are not installed.
    """
    session.install(".[http,hypercorn]", *group("tests"))
    session.run(
        *("pytest", "--hypothesis-profile=search", "-o", "faulthandler_timeout=900"),
        *(session.posargs or [*IN_PARALLEL, "tests/fuzz"]),
        env=INSTALLED_ONLY,
    )


@nox.session(default=False, tags=["slow"])
def bench(session: nox.Session) -> None:
    """The benchmarks, beside the official SDKs in the same run. Needs Node 20 and npm."""
    session.install(".[http,hypercorn]", *group("bench"))
    node = {"BENCH_TYPESCRIPT_DIR": node_folder(session, "bench")}
    if session.posargs:
        session.run("python", *session.posargs, env=node)
        return
    for script in ("stdio.py", "sessions.py", "http_calls.py", "sdk_apps.py"):
        session.run("python", f"benchmarks/{script}", env=node)


def node_folder(session: nox.Session, name: str) -> str:
    """Where npm may install into: nox's cache, never the source tree."""
    folder = session.cache_dir.resolve() / "node" / name
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
