"""`linux.resources` of config.json: the cgroup's limits. Source: config-linux.md, Control groups."""

from __future__ import annotations

from engine.bundle.rules import (
    BOOLEAN,
    CPU_LIST,
    INT64,
    STRING,
    UINT16,
    UINT32,
    UINT64,
    array,
    has_one_of,
    is_number_list,
    names_to,
    one_of,
    record,
    scalar,
)


def _is_page_size(size: str) -> bool:
    number = size[:-2]
    return size.endswith(("KB", "MB", "GB")) and number.isascii() and number.isdigit() and number[0] != "0"


def _is_device_access(access: str) -> bool:
    return set(access) <= set("rwm")


DEVICE_RULE = record(
    "config-linux.md, Allowed Device list",
    {"allow": BOOLEAN},
    {
        "type": one_of(["a", "c", "b"]),
        "major": INT64,
        "minor": INT64,
        "access": scalar(str, "a composition of r, w and m", _is_device_access),
    },
)


MEMORY = record(
    "config-linux.md, Memory",
    {},
    {
        "limit": INT64,
        "reservation": INT64,
        "swap": INT64,
        "kernel": INT64,
        "kernelTCP": INT64,
        "swappiness": UINT64,
        "disableOOMKiller": BOOLEAN,
        "useHierarchy": BOOLEAN,
        "checkBeforeUpdate": BOOLEAN,
    },
)


CPU = record(
    "config-linux.md, CPU",
    {},
    {
        "shares": UINT64,
        "quota": INT64,
        "burst": UINT64,
        "period": UINT64,
        "realtimeRuntime": INT64,
        "realtimePeriod": UINT64,
        "cpus": CPU_LIST,
        "mems": scalar(str, "a list of memory nodes such as 0-3,7", is_number_list),
        "idle": INT64,
    },
)


WEIGHTS = array(
    record(
        "config-linux.md, Block IO",
        {"major": INT64, "minor": INT64},
        {"weight": UINT16, "leafWeight": UINT16},
        has_one_of("weight", "leafWeight"),
    )
)


RATES = array(record("config-linux.md, Block IO", {"major": INT64, "minor": INT64, "rate": UINT64}, {}))


BLOCK_IO = record(
    "config-linux.md, Block IO",
    {},
    {
        "weight": UINT16,
        "leafWeight": UINT16,
        "weightDevice": WEIGHTS,
        "throttleReadBpsDevice": RATES,
        "throttleWriteBpsDevice": RATES,
        "throttleReadIOPSDevice": RATES,
        "throttleWriteIOPSDevice": RATES,
    },
)


HUGE_PAGE_LIMIT = record(
    "config-linux.md, Huge page limits",
    {"pageSize": scalar(str, "a size such as 64KB, 2MB or 1GB", _is_page_size), "limit": UINT64},
    {},
)


NETWORK_PRIORITY = record("config-linux.md, Network", {"name": STRING, "priority": UINT32}, {})


NETWORK = record("config-linux.md, Network", {}, {"classID": UINT32, "priorities": array(NETWORK_PRIORITY)})


RDMA = record(
    "config-linux.md, RDMA",
    {},
    {"hcaHandles": UINT32, "hcaObjects": UINT32},
    has_one_of("hcaHandles", "hcaObjects"),
)


RESOURCES = record(
    "config-linux.md, Control groups",
    {},
    {
        "devices": array(DEVICE_RULE),
        "memory": MEMORY,
        "cpu": CPU,
        "blockIO": BLOCK_IO,
        "hugepageLimits": array(HUGE_PAGE_LIMIT),
        "network": NETWORK,
        "pids": record("config-linux.md, PIDs", {"limit": INT64}, {}),
        "rdma": names_to(RDMA),
        "unified": names_to(STRING),
    },
)
