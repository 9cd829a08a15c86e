"""What runsc is given in the place of the caller's config.json: its bytes, or a copy in which little was changed.

runsc reads config.json from a directory of the engine's own, so what is relative to the bundle is made absolute, by the
same rules as in runsc: `root.path` and the sources of bind mounts. Everything else stays as it was judged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from engine.bundle.oci_config import is_bind
from engine.digest import sha256
from engine.errors import BundleError, Reason
from engine.linux.files import is_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: A number that Python would write in another way than it was read. NUL is in no string of a config.json that was
#: accepted, so nothing else is like it.
_KEPT, _KEPT_NUMBER = "\0%s\0", r'"\\u0000([^"\\]*)\\u0000"'


class GivenConfig:
    """What runsc is given: the bytes `data`, their `digest` (SHA-256, in hex), and the `changes`, by name.

    `changes`: `root_path`, the absolute one in the place of a relative; `mount_sources`, how many relative sources of
    bind mounts were made absolute; `annotations`, those that were added. Each only where there is one.

    `link`: the name of the root beside config.json, for hooks that look there; None without hooks, or for another root.
    """

    def __init__(self, data: bytes, digest: str, changes: Mapping[str, Any], link: str | None = None) -> None:
        self.data: Final = data
        self.digest: Final = digest
        self.changes: Final = changes
        self.link: Final = link


def given_config(
    data: bytes,
    config: Mapping[str, Any],
    bundle: str,
    digest: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> GivenConfig:
    """What runsc is given for the accepted `config` with the bytes `data`, of the bundle at the absolute path `bundle`.

    `digest`: that of `data`, if it is known. `annotations`: those to add. Raises `BundleError`: a path to write into it
    is not UTF-8.
    """
    changes: dict[str, Any] = {}
    link: str | None = None
    root: str = config["root"]["path"]
    if not root.startswith("/"):
        changes["root_path"] = _absolute(bundle, root)
        if config.get("hooks") and "/" not in root and root not in (".", ".."):
            link = root
    relative = [
        number
        for number, mount in enumerate(config.get("mounts", ()))
        if is_bind(mount) and not mount["source"].startswith("/")
    ]
    if relative:
        changes["mount_sources"] = len(relative)
    if annotations:
        changes["annotations"] = dict(annotations)
    if not changes:
        return GivenConfig(data, sha256(data) if digest is None else digest, changes)
    document = json.loads(data, parse_float=_kept, parse_int=_whole)
    if "root_path" in changes:
        document["root"]["path"] = changes["root_path"]
    for number in relative:
        mount = document["mounts"][number]
        mount["source"] = _absolute(bundle, mount["source"])
    if annotations:
        document["annotations"] = {**(document.get("annotations") or {}), **annotations}
    text = json.dumps(document, separators=(",", ":"))
    if "\\u0000" in text:
        text = re.sub(_KEPT_NUMBER, r"\1", text)
    changed = text.encode()
    return GivenConfig(changed, sha256(changed), changes, link)


def is_given(given: Mapping[str, Any], bundle: Mapping[str, Any]) -> bool:
    """Whether these recorded facts of what runsc is given, and of the caller's `bundle`, go together."""
    if "changes" not in given:
        return bool(given["sha256"] == bundle["sha256"])
    changes = given["changes"]
    return bool(
        changes
        and given["sha256"] != bundle["sha256"]
        and changes.get("root_path", bundle["rootfs"]) == bundle["rootfs"]
        and is_text(changes.get("root_path", ""))
        and changes.get("mount_sources", 1) > 0
        and changes.get("annotations", True) != {}
    )


def _absolute(bundle: str, path: str) -> str:
    absolute = os.path.normpath(os.path.join(bundle, path))
    if not is_text(absolute):  # Go would read U+FFFD in the place of these bytes, which is another directory
        raise BundleError(
            f"config.json has the relative path {path!r}, but the path of the bundle {bundle!r} is not UTF-8",
            reason=Reason.BUNDLE_UNSAFE,
            hint="rename the bundle's directory, or give absolute paths",
        )
    return absolute


def _kept(number: str) -> str:
    return _KEPT % number


def _whole(digits: str) -> int | str:
    return _kept(digits) if digits == "-0" else int(digits)
