"""Where the TLA+ specs are, and the digest that identifies the spec in a trace."""

from __future__ import annotations

import os

from engine.digest import sha256

_ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: In an installed package the specs are inside it; in a checkout, beside it.
_PLACES = (os.path.join(_ENGINE, "specs"), os.path.join(os.path.dirname(_ENGINE), "specs"))

LIFECYCLE_SPEC = "GVisorRuntime.tla"


def specs_directory() -> str:
    """The directory of the specs. Raises `FileNotFoundError` if the installation has none."""
    for place in _PLACES:
        if os.path.isfile(os.path.join(place, LIFECYCLE_SPEC)):
            return place
    raise FileNotFoundError(
        f"{LIFECYCLE_SPEC} is in none of {', '.join(_PLACES)}: the installation is incomplete"
    )


def spec_digest() -> str:
    """The SHA-256, in hexadecimal, of the lifecycle's spec. Raises `FileNotFoundError`."""
    with open(os.path.join(specs_directory(), LIFECYCLE_SPEC), "rb") as file:
        return sha256(file.read())
