"""Prepare dot's SVG for a page: a text alternative, dark and light mode, unique ids.

The colours are those of Okabe and Ito, which are safe for colour-blind readers. Line style, shape or a sign carries the
same information. A page can override the colours by CSS.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from enum import StrEnum

_SVG = "http://www.w3.org/2000/svg"


class Colour(StrEnum):
    """The purpose of a colour; its value is the one on paper."""

    PAPER = "#fefefe"
    INK = "#1b1b1b"
    MUTED = "#595959"
    LINE = "#767676"
    PANEL = "#f3f3f3"
    TAKEN = "#0072b2"
    TAKEN_FILL = "#e1f0fa"
    REFUSED = "#d55e00"
    REFUSED_FILL = "#fdeadc"
    GOOD = "#007a5a"
    GOOD_FILL = "#e0f4ee"


#: The same in dark mode.
_DARK: Mapping[Colour, str] = {
    Colour.PAPER: "#15181c",
    Colour.INK: "#f0f0f0",
    Colour.MUTED: "#b9bec4",
    Colour.LINE: "#8b939b",
    Colour.PANEL: "#24292f",
    Colour.TAKEN: "#56b4e9",
    Colour.TAKEN_FILL: "#123247",
    Colour.REFUSED: "#ff9a4d",
    Colour.REFUSED_FILL: "#472409",
    Colour.GOOD: "#3ccfa4",
    Colour.GOOD_FILL: "#0c382d",
}


def _style() -> str:
    dark = "".join(
        f'svg.engine-diagram [fill="{colour}"]{{fill:{shown}}}'
        f'svg.engine-diagram [stroke="{colour}"]{{stroke:{shown}}}'
        for colour, shown in _DARK.items()
    )
    return (
        "svg.engine-diagram{max-width:100%;height:auto}"
        f"@media screen and (prefers-color-scheme:dark){{{dark}}}"
    )


def finish(drawn: bytes, *, name: str, title: str, description: str, source: str) -> str:
    """The SVG that dot has `drawn`, as one element for a page.

    `name` begins its ids, so it must differ between pictures on a page. `source`: digest of the DOT text.
    """
    ET.register_namespace("", _SVG)
    root = ET.fromstring(drawn)  # noqa: S314 - dot's own output; it is made from text that was escaped
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == f"{{{_SVG}}}title"]:
            parent.remove(child)  # dot's node names, which browsers would show as tooltips
        parent.attrib.pop("id", None)
        parent.attrib.pop("class", None)
    root.attrib |= {
        "class": "engine-diagram",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "data-source-sha256": source,
    }
    for tag, text in (("style", _style()), ("desc", description), ("title", title)):
        element = ET.Element(f"{{{_SVG}}}{tag}")
        element.text = text
        if tag != "style":
            element.set("id", f"{name}-{tag}")
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode") + "\n"
