"""The addresses that only the maintainers know. Each stands here once; empty: not known yet.

`pyproject.toml`, the description of the package, `SECURITY.md` and `CODE_OF_CONDUCT.md` take them
from here. `nox -s release-check` fails while one is empty.
"""

from __future__ import annotations

from typing import Final

REPOSITORY: Final = ""
"""Where the code is, without a slash at the end, such as `https://github.com/OWNER/NAME`."""

DOCUMENTATION: Final = ""
"""Where the documentation is published, without a slash at the end."""

SECURITY_CONTACT: Final = ""
"""Where vulnerabilities are reported in private: an e-mail address, or a page with a form."""

CONDUCT_CONTACT: Final = ""
"""Where breaches of the code of conduct are reported: an e-mail address."""
