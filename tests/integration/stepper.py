"""Kills a command before one of its steps: `stepper.py REPORT N COMMAND...`, as a program of its own.

A step is a system call that others can notice, or that looks at what others may have left: a lock, a message to the
sandbox, a change of a file or a directory, an open of what is neither a program nor a library, a process, a signal,
execve(2), the end. They are counted over all threads, and on over execve. Children are not followed.

The file REPORT has one line for each step that was come to, of who came to it (`engine`, or `runsc` once it executes
that) and what it was; the one before which SIGKILL came is the last. An N of 0 kills nothing. The command's end is its.
Source: ptrace(2), syscall(2), <asm/unistd.h>.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from typing import NoReturn

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD, _TRACECLONE, _TRACEEXEC, _EXITKILL = 1, 1 << 3, 1 << 4, 1 << 20
_EVENT_EXEC = 4
_WALL = 0x40000000
_ENTRY = 1
_CLONE_THREAD = 0x00010000

#: By architecture: the calls that are steps. `rename` and the like are on the older one alone.
_CALLS = {
    "x86_64": {
        1: "write",
        2: "open",
        42: "connect",
        44: "sendto",
        46: "sendmsg",
        47: "recvmsg",
        49: "bind",
        56: "clone",
        57: "fork",
        58: "vfork",
        59: "execve",
        62: "kill",
        73: "flock",
        77: "ftruncate",
        82: "rename",
        83: "mkdir",
        84: "rmdir",
        87: "unlink",
        231: "exit_group",
        257: "openat",
        258: "mkdirat",
        263: "unlinkat",
        264: "renameat",
        316: "renameat2",
        322: "execveat",
        424: "pidfd_send_signal",
        435: "clone3",
    },
    "aarch64": {
        32: "flock",
        34: "mkdirat",
        35: "unlinkat",
        38: "renameat",
        46: "ftruncate",
        56: "openat",
        64: "write",
        94: "exit_group",
        129: "kill",
        200: "bind",
        203: "connect",
        206: "sendto",
        211: "sendmsg",
        212: "recvmsg",
        220: "clone",
        221: "execve",
        276: "renameat2",
        281: "execveat",
        424: "pidfd_send_signal",
        435: "clone3",
    },
}
#: What is opened there is a program's own business: libraries, settings of the system, facts of the kernel.
_NOT_STATE = (
    "/etc/",
    "/lib",
    "/usr/",
    "/dev/",
    "/sys/",
    "/proc/",
    *sys.path[1:],
    sys.prefix,
    sys.base_prefix,
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, pid: int, address: int, data: int | ctypes.Array[ctypes.c_char]) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Stepper:
    """The command `child`, which stands before its first execve(2); it is killed before its step `at`."""

    def __init__(self, child: int, at: int, report: int) -> None:
        self._child = child
        self._at = at
        self._report = report
        self._calls = _CALLS[os.uname().machine]
        self._executed = 0
        self._steps = 0
        self._info = ctypes.create_string_buffer(88)

    def go(self) -> int:
        """Let it go its way: how it ended, as waitpid(2) says it."""
        os.waitpid(self._child, _WALL)
        _ptrace(_SETOPTIONS, self._child, 0, _SYSGOOD | _TRACECLONE | _TRACEEXEC | _EXITKILL)
        thread, status = self._child, 0
        while True:
            # ESRCH: it was killed where it stood.
            with contextlib.suppress(ProcessLookupError):
                _ptrace(_SYSCALL, thread, 0, self._signal_after(thread, status) if status else 0)
            while True:
                thread, status = os.waitpid(-1, _WALL)
                if os.WIFSTOPPED(status):
                    break
                if thread == self._child:
                    return status

    def _signal_after(self, thread: int, status: int) -> int:
        """The signal that `thread` is to go on with after this stop; 0 for none."""
        number, event = os.WSTOPSIG(status), status >> 16
        if event == _EVENT_EXEC:
            self._executed += 1
        elif number == signal.SIGTRAP | 0x80:
            self._system_call(thread)
        elif not event and number != signal.SIGSTOP:  # with which a new thread begins
            return number
        return 0

    def _system_call(self, thread: int) -> None:
        _ptrace(_GET_SYSCALL_INFO, thread, len(self._info), self._info)
        kind, call, *arguments = struct.unpack_from("=B23xQ6Q", self._info)
        name = self._calls.get(call)
        if kind != _ENTRY or name is None or self._executed == 0:
            return
        step = self._step(thread, name, arguments)
        if step is None:
            return
        self._steps += 1
        who = "engine" if self._executed == 1 else "runsc"
        os.write(self._report, f"{who} {step}\n".encode())
        if self._steps == self._at:
            os.kill(self._child, signal.SIGKILL)

    def _step(self, thread: int, name: str, arguments: list[int]) -> str | None:
        """The step in words; None where the call is none."""
        if name in ("clone", "clone3"):
            # A thread is the program's own; clone3 has its flags first in what the first argument points to.
            flags = (
                arguments[0] if name == "clone" else struct.unpack("=Q", _read(thread, arguments[0], 8))[0]
            )
            return None if flags & _CLONE_THREAD else name
        if name == "write":
            on = os.readlink(f"/proc/{thread}/fd/{arguments[0] & 0xFFFFFFFF}")
            return None if on.startswith("anon_inode:") else f"write {os.path.basename(on)}"
        if name in ("open", "openat"):
            at = 1 if name == "openat" else 0
            path = _read(thread, arguments[at], 4096).partition(b"\0")[0].decode(errors="replace")
            writes = arguments[at + 1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes and path.startswith(_NOT_STATE):
                return None
            return f"open{' to write' if writes else ''} {os.path.basename(path)}"
        return name


def _read(thread: int, address: int, size: int) -> bytes:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        try:
            return memory.read(size)
        except OSError:  # the next page is not mapped
            memory.seek(address)
            return memory.read(4096 - address % 4096)


def main() -> NoReturn:
    path, at, *command = sys.argv[1:]
    child = os.fork()
    if child == 0:
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execvp(command[0], command)
    report = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    code = os.waitstatus_to_exitcode(Stepper(child, int(at), report).go())
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
