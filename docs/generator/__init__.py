"""Makes Markdown from the code: the reference, the tables of settings, the tables of errors."""
