"""MkDocs hook: turns `$...$` and `$$...$$` into MathML while the site is built.

Browsers draw MathML themselves, so the pages need no JavaScript and nothing from the network.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex (generic mode) leaves in the page.
_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page; MkDocs calls this with the page's HTML."""
    return _FORMULA.sub(_to_mathml, content)


def _to_mathml(match: re.Match[str]) -> str:
    display = "block" if match["tag"] == "div" else "inline"
    return convert(html.unescape(match["latex"]).strip(), display=display)
