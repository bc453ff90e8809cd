"""Check what would be released: `nox -s release-check`.

Builds sdist and wheel, checks them, and uses both on every supported Python that is there. What a
machine cannot do is printed at the end.
"""

from __future__ import annotations

import argparse
import email
import email.message
import email.policy
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

# Beside this file, which is run as a script.
from metadata import ROOT, read_addresses

PACKAGE: Final = "trio_mcp_session"
NAME: Final = "trio-mcp-session"
IN_SDIST: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "docs/index.md",
    "examples/minimal.py",
    "hatch_build.py",
    "noxfile.py",
    "pyproject.toml",
    "release/addresses.py",
    "tests/docs/asked.toml",
    f"{PACKAGE}/__init__.py",
    f"{PACKAGE}/py.typed",
)
HELLO: Final = """\
import json, subprocess, sys
hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
    "protocolVersion": "2025-11-25", "capabilities": {},
    "clientInfo": {"name": "c", "version": "1"}}}
ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": {"name": "add", "arguments": {"a": 1, "b": 2}}}
said = "".join(json.dumps(one) + "\\n" for one in (hello, ready, call))
done = subprocess.run([sys.executable, "server.py"], input=said, capture_output=True, text=True,
                      timeout=60)
answers = [json.loads(line) for line in done.stdout.splitlines()]
assert answers[-1]["result"]["structuredContent"] == {"result": 3}, (answers, done.stderr)
assert (done.returncode, done.stderr) == (0, ""), done
"""
"""A client of the README's first server, which needs nothing but Python."""

TO_DO: Final = (
    "Choose the version in trio_mcp_session/core/version.py, and the date in CHANGELOG.md; commit.",
    "Create the project on PyPI with a trusted publisher: workflow release.yml, environment pypi.",
    "Protect the environment pypi of the repository: a maintainer approves each release.",
    "Allow private vulnerability reports, if that is the security contact.",
    "Push the tag vVERSION. The workflow builds once, tests, publishes, and publishes the pages.",
    "Look at the page on PyPI: picture, links, classifiers. Install it once on a clean machine.",
)


class CheckFailed(Exception):
    """A check of the release failed."""


def read_project(root: Path = ROOT) -> dict[str, Any]:
    """Return `[project]` of pyproject.toml, with the version."""
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    version = runpy.run_path(str(root / PACKAGE / "core" / "version.py"))["__version__"]
    return found | {"version": version}


def wheel_problems(wheel: Path, project: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a wheel.

    Args:
        wheel: The file.
        project: What `read_project` returns.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = parse(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    yield from (
        f"the wheel has {name}"
        for name in names
        if name.split("/")[0] not in {PACKAGE, info} or "__pycache__" in name
    )
    for wanted in (f"{PACKAGE}/py.typed", f"{info}/licenses/LICENSE"):
        if wanted not in names:
            yield f"the wheel lacks {wanted}"
    if f"{NAME} = {project['scripts'][NAME]}" not in entry_points:
        yield f"the wheel lacks the script {NAME}"
    yield from metadata_problems(metadata, project)


def metadata_problems(
    metadata: email.message.EmailMessage, project: dict[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with the metadata of a package."""
    wanted = {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
    }
    for header, value in wanted.items():
        if metadata[header] != value:
            yield f"the metadata says {header}: {metadata[header]!r}, expected {value!r}"
    extras = set(metadata.get_all("Provides-Extra", []))
    if extras != set(project["optional-dependencies"]):
        yield f"the metadata has the extras {sorted(extras)}"
    if "Typing :: Typed" not in metadata.get_all("Classifier", []):
        yield "the metadata lacks the classifier 'Typing :: Typed'"
    if "## " not in str(metadata.get_payload()):
        yield "the metadata has no description"


def sdist_problems(sdist: Path, version: str) -> Iterator[str]:
    """Yield what is wrong with a source distribution."""
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    top = f"{PACKAGE}-{version}/"
    for wanted in IN_SDIST:
        if top + wanted not in names:
            yield f"the sdist lacks {wanted}"
    yield from (
        f"the sdist has {name}"
        for name in names
        if not name.startswith(top) or re.search(r"__pycache__|node_modules|_build/", name)
    )


def missing_addresses(addresses: dict[str, str]) -> list[str]:
    """Return the names of the addresses that are not known."""
    return [name for name, value in addresses.items() if not value]


def address_problems(addresses: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the addresses that are known."""
    for name in ("REPOSITORY", "DOCUMENTATION"):
        value = addresses[name]
        if value and not re.fullmatch(r"https://[^\s/]+(/[^\s/]+)*", value):
            yield f"{name} has to begin with https:// and to end without a slash: {value!r}"
    for name in ("SECURITY_CONTACT", "CONDUCT_CONTACT"):
        value = addresses[name]
        if value and not re.fullmatch(r"https://\S+|[^\s@]+@[^\s@]+\.[^\s@]+", value):
            yield f"{name} has to be an e-mail address, or to begin with https://: {value!r}"


def parse(metadata: bytes) -> email.message.EmailMessage:
    """Read a METADATA file."""
    return email.message_from_bytes(metadata, policy=email.policy.default)


def versions(classifiers: Iterable[str]) -> list[str]:
    """Return the supported versions of Python, such as 3.11."""
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in classifiers)
    return [match[1] for match in found if match]


def find_python(version: str) -> str | None:
    """Return the program of a version of Python, or None if it is not installed."""
    name = f"python{version}"
    folders = os.get_exec_path()
    # As .ci/run does: pyenv's shims exist for all versions, and work for the chosen ones only.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += [str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin"))]
    for folder in folders:
        program = shutil.which(name, path=folder)
        if program is None:
            continue
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([program, "-c", asked], capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return program
    return None


def run(
    *command: str | Path,
    cwd: Path = ROOT,
    quiet: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program; return its standard output.

    Raises:
        CheckFailed: It failed. The error has its output.
    """
    # Never the checkout instead of what was installed.
    variables = {**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = " ".join(map(str, command))
        raise CheckFailed(f"{shown}\nended with status {done.returncode}\n{done.stdout or ''}")
    return done.stdout or ""


class Environment:
    """A virtual environment with a package that was built."""

    def __init__(self, program: str, folder: Path) -> None:
        """Make it."""
        self.folder = folder
        self.python = folder / "bin" / "python"
        run(program, "-m", "venv", folder)
        self.install("pip >= 25.1")

    def install(self, *what: str, groups: tuple[str, ...] = ()) -> None:
        """Install packages."""
        chosen = [
            part for group in groups for part in ("--group", f"{ROOT}/pyproject.toml:{group}")
        ]
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(self.python, *pip, *what, *chosen)

    def use(self, version: str) -> None:
        """Run the smallest things that a new user does, in an empty folder."""
        work = self.folder / "empty"
        work.mkdir()
        run(self.python, "-m", "pip", "check")
        said = run(self.folder / "bin" / NAME, "--version", cwd=work)
        if f"{PACKAGE} {version} " not in said:
            raise CheckFailed(f"--version says {said!r}, expected {version}")
        where = run(self.python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=work)
        if "site-packages" not in where:
            raise CheckFailed(f"not the installed package: {where}")
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        first = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
        (work / "server.py").write_text(first, encoding="utf-8")
        run(self.python, "-c", HELLO, cwd=work)


def main(arguments: list[str]) -> int:
    """Run all checks; return 0 if the package can be released."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--node", type=Path, required=True, help="where npm installs the suite")
    parts = ("sdist", "demo", "clients", "conformance")
    parser.add_argument("--without", action="append", default=[], choices=parts)
    options = parser.parse_args(arguments)
    try:
        absent = check_all(options)
    except CheckFailed as failure:
        print(f"✗ {failure}", file=sys.stderr)
        return 1
    return conclude(read_addresses(), absent, options.without)


def check_all(options: argparse.Namespace) -> list[str]:
    """Build and check; return what could not be checked here."""
    project = read_project()
    version = project["version"]
    refuse("the addresses", address_problems(read_addresses()))
    dist = options.work / "dist"
    # First the sdist, then the wheel from it.
    step("build", lambda: run(sys.executable, "-m", "build", "--outdir", dist))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    step(
        "twine check", lambda: run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    )
    step(wheel.name, lambda: refuse(wheel.name, wheel_problems(wheel, project)))
    step(sdist.name, lambda: refuse(sdist.name, sdist_problems(sdist, version)))

    programs = {number: find_python(number) for number in versions(project["classifiers"])}
    used = {number: program for number, program in programs.items() if program}
    if not used:
        raise CheckFailed(f"none of these is installed: Python {', '.join(programs)}")
    environments = [
        check_on(options, number, program, wheel, sdist, version)
        for number, program in used.items()
    ]
    check_with_others(options, environments[0], wheel)
    return [f"not installed here: Python {number}" for number in programs if number not in used]


def check_on(
    options: argparse.Namespace,
    number: str,
    program: str,
    wheel: Path,
    sdist: Path,
    version: str,
) -> Environment:
    """Use the packages on one version of Python; return the environment with the wheel."""
    bare = Environment(program, options.work / f"wheel-{number}")
    step(f"Python {number}: install the wheel", lambda: bare.install(str(wheel)))
    step(f"Python {number}: --version, import, the first server", lambda: bare.use(version))
    if "sdist" not in options.without:
        other = Environment(program, options.work / f"sdist-{number}")
        step(f"Python {number}: install the sdist", lambda: other.install(str(sdist)))
        step(f"Python {number}: the same from the sdist", lambda: other.use(version))
    if "demo" not in options.without:
        step(f"Python {number}: the extra mcp", lambda: bare.install(f"{wheel}[mcp]"))
        demo = (bare.python, "-m", PACKAGE, "demo", "--plain")
        step(f"Python {number}: the demo", lambda: run(*demo, cwd=bare.folder))
    return bare


def check_with_others(options: argparse.Namespace, bare: Environment, wheel: Path) -> None:
    """Use the wheel with the official client in each mode, and with the conformance suite."""
    parts = {
        "clients": ("-m", "interop", "tests/interop/test_first_servers.py", "-k", "README"),
        "conformance": ("tests/conformance",),
    }
    chosen = {part: paths for part, paths in parts.items() if part not in options.without}
    if not chosen:
        return
    extras = f"{wheel}[http,hypercorn]"
    groups = ("tests", "interop")
    step("what the tests need", lambda: bare.install(extras, groups=groups))
    pytest = (bare.python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    node = {"TRIO_MCP_SESSION_NODE_MODULES": str(options.node)}
    for part, paths in chosen.items():
        tests = partial(run, *pytest, *paths, quiet=False, environment=node)
        step(f"{part}, from the wheel", tests)


def step(name: str, check: Callable[[], object]) -> None:
    """Run a check, and say that it passed."""
    print(f"· {name}", flush=True)
    check()
    print(f"✓ {name}", flush=True)


def refuse(what: str, problems: Iterable[str]) -> None:
    """Raise an error if there are problems."""
    if found := list(problems):
        raise CheckFailed("\n  ".join([f"{what}:", *found]))


def conclude(addresses: dict[str, str], absent: list[str], left_out: list[str]) -> int:
    """Print what is left for a person; return the exit status."""
    for line in [*absent, *(f"left out, as you said: {part}" for part in left_out)]:
        print(f"- {line}")
    print("\nLeft for a person:")
    for number, task in enumerate(TO_DO, 1):
        print(f"  {number}. {task}")
    missing = missing_addresses(addresses)
    if not missing and left_out:
        print("\nAll other checks passed. Run those that were left out before a release.")
        return 1
    if not missing:
        print("\nAll checks passed: this can be released.")
        return 0
    print(
        "\nAll other checks passed. This cannot be released, because these addresses in "
        f"release/addresses.py are empty: {', '.join(missing)}. Only the maintainers know them."
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
