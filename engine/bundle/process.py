"""`process` of config.json: user, arguments, capabilities and limits. Source: config.md, Process."""

from __future__ import annotations

from engine.bundle.rules import (
    BOOLEAN,
    CPU_LIST,
    INT32,
    SHORT_ABSOLUTE_PATH,
    SHORT_STRING,
    STRING,
    UINT32,
    UINT64,
    array,
    integer,
    one_of,
    prefixed,
    record,
    scalar,
)


def _is_environment_entry(entry: str) -> bool:
    return entry.find("=") > 0


ENVIRONMENT = array(scalar(str, "an entry of the form NAME=value", _is_environment_entry, secret=True))


#: The user where there is no `user`: in Go both are 0, which is the container's root.
DEFAULT_USER = {"uid": 0, "gid": 0}

# uid and gid are REQUIRED on POSIX systems.
USER = record(
    "config.md, POSIX-platform User",
    {"uid": UINT32, "gid": UINT32},
    {"umask": UINT32, "additionalGids": array(UINT32), "username": STRING},
)


#: capabilities(7) up to Linux 5.9, which added the last one.
CAPABILITY_NAMES = prefixed(
    "CAP_",
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD "
    "NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN "
    "SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG WAKE_ALARM",
)


CAPABILITIES = array(one_of(CAPABILITY_NAMES, "a capability of capabilities(7), such as CAP_CHOWN"))


#: getrlimit(2).
RLIMIT_TYPES = prefixed(
    "RLIMIT_",
    "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK",
)


SCHEDULER_POLICIES = prefixed("SCHED_", "OTHER FIFO RR BATCH ISO IDLE DEADLINE")


SCHEDULER_FLAGS = prefixed(
    "SCHED_FLAG_",
    "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX",
)


PROCESS = record(
    "config.md, Process",
    {"cwd": SHORT_ABSOLUTE_PATH, "args": array(STRING, at_least=1)},
    {
        "user": USER,
        "terminal": BOOLEAN,
        "consoleSize": record("config.md, Process", {"height": UINT64, "width": UINT64}, {}),
        "env": ENVIRONMENT,
        "commandLine": STRING,
        "rlimits": array(
            record(
                "config.md, POSIX process",
                {
                    "type": one_of(RLIMIT_TYPES, "a limit of getrlimit(2), such as RLIMIT_NOFILE"),
                    "soft": UINT64,
                    "hard": UINT64,
                },
                {},
            ),
            distinct="type",
        ),
        "apparmorProfile": SHORT_STRING,
        "capabilities": record(
            "config.md, Linux Process",
            {},
            {
                "effective": CAPABILITIES,
                "bounding": CAPABILITIES,
                "inheritable": CAPABILITIES,
                "permitted": CAPABILITIES,
                "ambient": CAPABILITIES,
            },
        ),
        "noNewPrivileges": BOOLEAN,
        "oomScoreAdj": integer(-1000, 1000),  # proc_pid_oom_score_adj(5)
        "scheduler": record(
            "config.md, Linux Process",
            {"policy": one_of(SCHEDULER_POLICIES)},
            {
                "nice": INT32,
                "priority": INT32,
                "flags": array(one_of(SCHEDULER_FLAGS, "a scheduling flag such as SCHED_FLAG_RECLAIM")),
                "runtime": UINT64,
                "deadline": UINT64,
                "period": UINT64,
            },
        ),
        "selinuxLabel": scalar(str, "an empty one, as runsc has no SELinux", lambda label: label == ""),
        "ioPriority": record(
            "config.md, Linux Process",
            {
                "class": one_of(prefixed("IOPRIO_CLASS_", "RT BE IDLE")),
                "priority": integer(0, 7),
            },
            {},
        ),
        "execCPUAffinity": record("config.md, Linux Process", {}, {"initial": CPU_LIST, "final": CPU_LIST}),
    },
)
