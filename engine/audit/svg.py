"""dot's SVG made fit to be shown: a text alternative, dark and light, and nothing that clashes when put into a page.

The colours are those of Okabe and Ito, which the colour-blind can tell apart; what they say is said by line style,
shape or a sign as well. A page may choose others by giving an element other values for them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from enum import StrEnum

_SVG = "http://www.w3.org/2000/svg"


class Colour(StrEnum):
    """What a colour is for; its value is the one on paper."""

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


#: The same on a dark screen.
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
    """The SVG that dot has `drawn`, as one element that can stand in a page.

    `name` begins its ids, so it must differ between pictures on a page. `source` is the digest of what dot drew.
    """
    ET.register_namespace("", _SVG)
    root = ET.fromstring(drawn)  # noqa: S314 - dot's own output; it is made from text that was escaped
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == f"{{{_SVG}}}title"]:
            parent.remove(child)  # dot's names of nodes, which browsers would show as tooltips
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
