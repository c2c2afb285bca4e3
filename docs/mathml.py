"""Hook of mkdocs: formulas become MathML while the site is built, so that its pages need no script from elsewhere."""

import html
import re
from typing import Any

import latex2mathml.converter

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    r"""Replace each ``\(...\)`` and ``\[...\]`` that the Markdown extension has marked."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return latex2mathml.converter.convert(html.unescape(match[2]), display=display)

    return FORMULA.sub(mathml, content)
