"""The project has no new refused words, and each pattern finds the phrases it is for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import allowance, command
from .allowance import hits, problems, read_allowed, update
from .patterns import PATTERNS, find
from .texts import ROOT, Text, read_all


def text(words: str, path: str = "a.py") -> Text:
    return Text(path, 1, "comment", words)


def test_no_file_has_more_refused_words_than_are_allowed() -> None:
    assert list(problems(hits(read_all()), read_allowed())) == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("whoever", "Wake whoever waits"),
        ("whyever", "Whyever a session ends"),
        ("nobody", "Nobody reads it"),
        ("nobody", "if someone waits"),
        ("who", "tasks who wait"),
        ("who", "Who uses a handle is its owner. Is it?"),
        ("whom", "for whom it waits"),
        ("any more", "It is not ready any more"),
        ("any more", "and no more."),
        ("is no", "That is no answer"),
        ("is no", "which is none of this request"),
        ("learn that", "Learn that a request is over"),
        ("tell whether", "tells whether it is idle"),
        ("tell of", "Telling of changes"),
        ("tell of", "can be told nothing"),
        ("hear of", "The client hears of it"),
        ("be", "Be that request from now on"),
        ("be", "Rebind. Be that request"),
        ("shake hands", "It shook no hands"),
        ("goodbye", "say good-bye"),
        ("house", "in the house"),
        ("guest", "one guest of a handle"),
        ("dress", "dressing a result"),
        ("outlet", "its outlet"),
        ("pulse", "at each pulse"),
        ("stranger", "a stranger's cost"),
        ("newcomer", "Refuse the newcomer"),
        ("accord", "of its own accord"),
        ("accord", "for want of room"),
        ("stands for itself", "requests that stand for themselves"),
        ("strike", "before the clock strikes"),
        ("let go of", "lets go of the scope"),
        ("come back", "until its client comes back"),
        ("go on", "the handler goes on"),
        ("has to go", "the oldest has to go"),
        ("turn away", "is turned away"),
        ("manners", "Good manners"),
        ("nothing here", "There is nothing here"),
        ("no such", "There is no such handle"),
        ("become of", "what becomes of a call"),
        ("as many as", "as many as there are"),
        ("is that of", "the address is that of the proxy"),
    ],
)
def test_a_phrase_is_refused(name: str, words: str) -> None:
    assert [pattern.name for pattern, _ in find(words)] == [name]


def test_each_pattern_has_a_name_of_its_own_and_a_test() -> None:
    (marker,) = test_a_phrase_is_refused.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in marker.args[1]} == {pattern.name for pattern in PATTERNS}
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)


@pytest.mark.parametrize(
    "words",
    [
        "Users who open a session",
        "Who may use a handle?",
        "no more than ten bytes",
        "There is no handle, and there are no sessions",
        "It is no longer open",
        "Trio's guest mode",
        "Must be closed",
        "the handshake",
        "what is marked as code: `outlet` and ``whoever`` is left out",
        "greenhouse, nobodyness, outlets_",
    ],
)
def test_plain_words_are_not_refused(words: str) -> None:
    assert find(words) == []


def test_a_word_that_is_repeated_counts_each_time() -> None:
    assert [words for _, words in find("Nobody, and nobody else, whoever it is")] == [
        "whoever",
        "nobody",
        "nobody",
    ]


def test_a_hit_says_where_it_is_and_what_to_write() -> None:
    (hit,) = hits([text("Each session lives in the house of its manager.")])
    assert str(hit) == (
        "a.py:1: 'house' in 'Each session lives in the house of its manager.'; "
        "write: the sessions nursery"
    )


def test_the_allowed_number_is_not_a_problem() -> None:
    found = hits([text("guest"), text("guest")])
    assert list(problems(found, {"a.py": 2})) == []


def test_more_than_allowed_is_a_problem_with_all_of_its_places() -> None:
    found = hits([text("guest"), text("guest"), text("guest", "b.py")])
    first, *places = problems(found, {"a.py": 1, "b.py": 1})
    assert first == "a.py: 2 refused words, 1 allowed. All of them:"
    assert len(places) == 2


def test_less_than_allowed_is_a_problem() -> None:
    (problem,) = problems([], {"gone.py": 1})
    assert problem.startswith("gone.py: 0 refused words, 1 allowed: lower")


def test_an_update_lowers_the_allowance_and_drops_files_without_any(tmp_path: Path) -> None:
    path = tmp_path / "allowed.toml"
    assert update(hits([text("guest, guest"), text("guest", "b.py")]), path)
    assert read_allowed(path) == {"a.py": 2, "b.py": 1}
    assert update(hits([text("guest")]), path)
    assert read_allowed(path) == {"a.py": 1}


def test_an_update_follows_text_that_has_moved_but_never_raises_the_sum(tmp_path: Path) -> None:
    path = tmp_path / "allowed.toml"
    update(hits([text("guest, guest")]), path)
    assert update(hits([text("guest, guest", "b.py")]), path)
    assert read_allowed(path) == {"b.py": 2}
    assert not update(hits([text("guest, guest, guest", "b.py")]), path)
    assert read_allowed(path) == {"b.py": 2}


# The command.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one page with one refused word, which is allowed."""
    (tmp_path / "README.md").write_text("# Title\n\nIt has a guest, as others do.\n", "utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_it() -> None: ...\n", "utf-8")
    (tmp_path / "allowed.toml").write_text('"README.md" = 1\n', encoding="utf-8")
    monkeypatch.setattr(allowance, "ALLOWED", tmp_path / "allowed.toml")
    monkeypatch.setattr(command, "read_all", lambda: read_all(tmp_path))
    return tmp_path


def test_the_check_passes_where_nothing_is_new(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 0
    assert capsys.readouterr().out == "1 refused words\n"


def test_the_check_fails_and_an_update_refuses_where_words_are_new(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "README.md").write_text("A guest of a guest.\n", "utf-8")
    assert command.main(["--update"]) == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "There are more refused words than before: nothing was written."
    assert second == "README.md: 2 refused words, 1 allowed. All of them:"


def test_an_update_makes_the_check_pass_again_where_words_are_fewer(project: Path) -> None:
    (project / "README.md").write_text("A borrower.\n", "utf-8")
    assert command.main([]) == 1
    assert command.main(["--update"]) == 0
    assert command.main([]) == 0


@pytest.mark.parametrize("places, count", [([], 1), (["README.md"], 1), (["docs", "tests"], 0)])
def test_refused_words_are_listed_by_place(
    places: list[str], count: int, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["list", *places]) == 0
    assert capsys.readouterr().out.count("README.md:3: 'guest'") == count


def test_the_sample_command_prints_sentences(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["sample", "5", "--seed", "1"]) == 0
    assert capsys.readouterr().out == "README.md:3: [page] It has a guest, as others do.\n"


def test_test_names_are_reported(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["names"]) == 0
    assert "1 of 1 test names" in capsys.readouterr().out


def test_the_package_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.words", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "--update" in done.stdout
