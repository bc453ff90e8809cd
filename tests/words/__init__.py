"""The words of the project: which ones are refused in new text, and samples for readers.

``python -m tests.words`` checks, as the lint session does; see ``--help`` for the rest. Standard
library only: the lint session installs nothing of the project.
"""
