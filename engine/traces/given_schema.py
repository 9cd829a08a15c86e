"""What a trace says of the config.json that runsc is given. Part of `engine.traces.schema`."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from engine.traces.asked_schema import Digest, Says


class Changes(TypedDict):
    """What the engine changed of the caller's config.json."""

    root_path: NotRequired[
        Annotated[
            str, Says("The root's absolute path, for a relative one.", "= `bundle.rootfs`, `asked.root.path`")
        ]
    ]
    mount_sources: NotRequired[
        Annotated[int, Says("How many relative sources of bind mounts were made absolute.", "= config.json")]
    ]
    annotations: NotRequired[
        Annotated[
            dict[str, str],
            Says("The annotations that were added: of a pod.", "= config.json; `secure_root.sandbox`"),
        ]
    ]


class GivenFacts(TypedDict):
    """The copy of config.json that runsc is given. `bundle.sha256` is the digest of the caller's."""

    sha256: Annotated[Digest, Says("Its SHA-256, in hexadecimal.", "= config.json and `changes`")]
    changes: NotRequired[Annotated[Changes, Says("What was changed of the caller's, if anything.")]]
