"""The codes of what deserves a word, for the trace's schema, which looks at no bundle."""

from __future__ import annotations

from collections.abc import Mapping

#: Each code, and what it says.
CODES: Mapping[str, str] = {
    "writable_bundle": "others can change the bundle",
    "writable_config": "others can change config.json",
    "hook_environment": "variables let a hook on the host load other code",
    "binds_host": "the host's whole file system is mounted into the container",
    "binds_proc": "the host's /proc is mounted into the container",
    "binds_sys": "the host's /sys is mounted into the container",
    "binds_etc": "the host's /etc is mounted into the container",
    "binds_root_home": "the host's /root is mounted into the container",
    "binds_socket": "a socket of the host, where a daemon listens, is mounted into the container",
    "writable_system": "system directories of the host are mounted, and the container can write there",
    "devices": "devices of the host are given to the container",
    "capabilities": "the container's program has capabilities of an administrator",
    "over_programs": "a mount of the host's files covers the container's programs",
    "filestore_on_host": "an annotation lets runsc write a file into a directory of the host that is mounted",
    "host_network": "the container shares the host's network",
    "root_on_host": "what the container writes to its root reaches the bundle's files on the host",
    "host_uds": "the container can use Unix sockets of the host in what is mounted",
    "host_fifo": "the container can use FIFOs of the host in what is mounted",
    "raw_sockets": "the container can send packets of any form",
    "device_proxy": "system calls of the container reach a driver of the host",
    "logs_data": "what the container's program reads and writes is in a log of runsc",
}
