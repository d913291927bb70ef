"""What is wrong with what was given."""

from __future__ import annotations


class InputError(Exception):
    """A folder, a name or a setting that cannot serve; the message says which, and what to do."""
