"""The command ``python -m tests.words``."""

from __future__ import annotations

import argparse

from .allowance import hits, problems, read_allowed, update
from .names import report
from .samples import sample
from .texts import read_all


def main(arguments: list[str]) -> int:
    """Check the words of the project, or do what a subcommand says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.words", description="Check the words.")
    parser.add_argument("--update", action="store_true", help="lower the allowance to what is left")
    commands = parser.add_subparsers(dest="command")
    listing = commands.add_parser("list", help="print refused words and what to write instead")
    listing.add_argument("path", nargs="*", help="files or folders; everything by default")
    drawing = commands.add_parser("sample", help="print sentences drawn at random")
    drawing.add_argument("number", type=int)
    drawing.add_argument("--seed", type=int)
    commands.add_parser("names", help="print the test names that say nothing by themselves")
    options = parser.parse_args(arguments)

    texts = read_all()
    if options.command == "sample":
        for one in sample(texts, options.number, options.seed):
            print(f"{one.path}:{one.line}: [{one.kind}] {one.text}")
        return 0
    if options.command == "names":
        print(report(texts))
        return 0
    found = hits(texts)
    if options.command == "list":
        places = tuple(options.path) or ("",)
        print(*(hit for hit in found if hit.text.path.startswith(places)), sep="\n")
        return 0
    if options.update and not update(found):
        print("There are more refused words than before: nothing was written.")
    wrong = list(problems(found, read_allowed()))
    print(*wrong, f"{len(found)} refused words", sep="\n")
    return 1 if wrong else 0
