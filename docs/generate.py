"""Write the parts of the documentation that are made from the code.

python docs/generate.py            writes them
python docs/generate.py --check    changes nothing, and fails if they are not current
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from generator.pages import COMMAND, generate  # noqa: E402  # not a package that is installed


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` only compare them. Return the exit status."""
    made = generate(DOCS)
    left = {*(DOCS / "reference").glob("*.md")} - made.keys()
    changed = [
        path
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    names = ", ".join(sorted(os.path.relpath(path, DOCS) for path in {*changed, *left}))
    if "--check" in arguments:
        if names:
            print(f"not what the code says: {names}\nRun: {COMMAND}", file=sys.stderr)
        return 1 if names else 0
    (DOCS / "reference").mkdir(exist_ok=True)
    for path in changed:
        path.write_text(made[path], encoding="utf-8")
    for path in left:
        path.unlink()
    print(f"written: {names or 'nothing, all is current'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
