"""What the header of a trace says of the run: its options, its bundle and its host. Part of `engine.traces.schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, TypedDict

import msgspec

from engine.bundle.grant_codes import CODES
from engine.options import ExecPolicy, Network, Platform
from engine.traces.asked_schema import Digest, Says

if TYPE_CHECKING:
    GrantCode = str
    NetworkName = str
    PlatformName = str
    ExecPolicyName = str
else:
    #: One of `engine.bundle.grant_codes.CODES`.
    GrantCode = Literal[tuple(CODES)]
    NetworkName = Literal[tuple(map(str, Network))]
    PlatformName = Literal[tuple(map(str, Platform))]
    #: With the policy of earlier versions.
    ExecPolicyName = Literal[(*map(str, ExecPolicy), "landlock")]


class Options(TypedDict):
    """The options of the run."""

    network: Annotated[NetworkName, Says("The value of `--network`.", "= `exec.argv`; its words")]
    platform: Annotated[PlatformName, Says("The value of `--platform`.", "`validate.platform`; its words")]
    rootless: Annotated[bool, Says("Whether runsc is started rootless.", "= `exec.argv`")]
    ignore_cgroups: Annotated[bool, Says("Whether runsc makes no cgroups.", "= `exec.argv`")]
    exec_policy: Annotated[
        ExecPolicyName, Says("The value of `--exec-policy`.", "`apply_policy.outcome`; its words")
    ]
    require_exec_policy: Annotated[
        bool, Says("Whether a run without the execute policy is refused.", "`apply_policy.outcome`")
    ]
    runsc: Annotated[
        str | None, Says("The value of `--runsc`; null if not given.", "`resolve.path`, `found_by`")
    ]
    require_strict_bundle: NotRequired[
        Annotated[
            bool, Says("Whether a bundle that would be warned of is refused.", "= true; no `bundle.grants`")
        ]
    ]
    supervise: NotRequired[
        Annotated[bool, Says("Whether the engine stays, and records how the run ended.", "= true")]
    ]

    root_digest: NotRequired[
        Annotated[
            bool,
            Says("Whether a digest of the root file system was asked for.", "= by `asked.root.sha256`"),
        ]
    ]
    require_enforced: NotRequired[
        Annotated[
            bool,
            Says("Whether a bundle that runsc will not do as asked is refused.", "= true; `unenforced`"),
        ]
    ]

    runsc_flags: NotRequired[
        Annotated[
            list[str],
            Says(
                "The flags of runsc that were passed on, `--name=value` each.",
                "= `exec.argv`; of `engine.runsc_flags`; `bundle.grants`",
            ),
        ]
    ]


class Bundle(TypedDict):
    """The bundle."""

    path: Annotated[str, Says("Its absolute path.", "= by `rootfs`, `asked.root.path`")]
    sha256: Annotated[Digest, Says("SHA-256 of `config.json`, in hexadecimal.", "= config.json")]
    rootfs: Annotated[
        str, Says("The absolute path of the root file system.", "= by `path`, `asked.root.path`")
    ]
    hooks: Annotated[int, Says("The number of hooks, which run outside the sandbox.", "= `asked.hooks`")]
    hints: NotRequired[
        Annotated[
            dict[str, str],
            Says("The annotations that runsc reads, if any, each with its value.", "= config.json"),
        ]
    ]
    grants: NotRequired[
        Annotated[
            list[GrantCode],
            Says(
                "What of it deserves a word, if anything; the run says it, too.",
                "`asked`, `options.network`; each once",
            ),
        ]
    ]


class Host(TypedDict):
    """The machine."""

    kernel: Annotated[str, Says("The kernel's release.", free="host")]
    machine: Annotated[str, Says("The architecture, uname(2).", free="host")]
    user: Annotated[int, Says("The effective uid of the run.", "= `secure_root.user`")]
    name: NotRequired[Annotated[str, Says("The host's name, uname(2).", free="host")]]
    boot: NotRequired[
        Annotated[
            Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")] | None,
            Says("The id of this boot, 32 hexadecimal digits; null if unknown.", free="host"),
        ]
    ]
    login_user: NotRequired[
        Annotated[
            Annotated[int, msgspec.Meta(ge=-1, le=(1 << 32) - 2)],
            Says("The uid that logged in, proc(5) `loginuid`; -1 if unknown.", free="host"),
        ]
    ]
