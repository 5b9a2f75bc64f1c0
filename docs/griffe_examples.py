"""Shows ``Example:`` of docstrings as code in the reference, as ``Examples:``; mkdocs.yml names this file."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Griffe takes a section called ``Example`` for a remark, and Markdown then takes ``>>>`` for quotes."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", obj.docstring.value)
