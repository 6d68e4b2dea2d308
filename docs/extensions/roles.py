"""Docstrings of the package name other objects by Sphinx roles; Markdown has none."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([^`]+)`")


def plain(role: re.Match[str]) -> str:
    """The name as code; after a tilde only its last part, as Sphinx shows it."""
    name = role[2].rpartition(".")[2] if role[1] else role[2]
    return f"`{name.removeprefix('.')}`"


class Roles(griffe.Extension):
    """Turns roles into code before the docstring is rendered."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring; the other arguments of the hook are griffe's own."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(plain, obj.docstring.value)
