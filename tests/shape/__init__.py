"""Measurements of the code's shape: from its source, without importing it, and from traced walks.

``python -m tests.shape [ROOT]`` prints the figures of a checkout, ``python -m tests.shape --allow``
writes what is found to ``allowed.toml``, and ``python -m tests.shape.walks`` traces six walks.
"""
