"""Extension of griffe: the reStructuredText marks in our docstrings become Markdown before the API page is drawn."""

import re
import textwrap
from typing import Any

import griffe

DISPLAY = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:class|func|meth|mod|attr):`~?([^`]+)`")


def markdown(text: str) -> str:
    """Return ``text`` with formulas between dollars and cross-references as code."""

    def display(match: re.Match[str]) -> str:
        formula = " ".join(textwrap.dedent(match[2]).split())
        return f"{match[1]}$$ {formula} $$\n"

    text = ROLE.sub(r"`\1`", INLINE.sub(r"$\1$", DISPLAY.sub(display, text)))
    return re.sub("::$", ":", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrite every docstring as it is found."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
