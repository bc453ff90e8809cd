"""Print the figures of the package's shape."""

from __future__ import annotations

import sys

from .figures import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
