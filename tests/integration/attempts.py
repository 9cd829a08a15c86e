"""What whoever took over the supervisor would try, from its own place: as a program, `attempts.py ENGINE-ARGUMENTS`.

The engine takes its whole way to execve(2), and where it would become runsc, this process tries to execute things
instead, with the identity, namespaces, mounts, filters and descriptors that runsc would have. It prints a JSON object:
for each attempt the kernel's answer, `runs` or the name of an error.

The notable thing: under the policy no library can be loaded any more, so all that is needed is imported before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import pty
import stat
import sys
import tempfile
import termios
import types
from collections.abc import Callable, Mapping, Sequence

from engine.linux.syscall import FSOPEN, MOUNT_SETATTR, library_call, system_call
from engine.runsc import execute as execute_step

RUNS = "runs"
TRUE = "/bin/true"

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 8, 0x20, 0x1000, 0x4000, 1 << 18
_DETACH = 2
_NS_GET_PARENT = 0xB702
_PTRACE_SEIZE = 0x4206
_SETUID_HELPERS = ("/usr/bin/newuidmap", "/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount")


def execute(path: str | int, *arguments: str) -> str:
    """The kernel's answer to execve(2) of `path`, in a child. The program is told to do nothing."""
    return _in_a_child(lambda: os.execve(path, [str(path), *arguments], {}))


def _in_a_child(act: Callable[[], object]) -> str:
    """`runs` when `act` became a program or came back; else the name of the error that it raised."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(quiet, descriptor)
        try:
            act()
        except OSError as error:
            os.write(told, errno.errorcode.get(error.errno or 0, "?").encode())
        except BaseException as fault:
            os.write(told, repr(fault).encode())  # of the attempt itself: no answer, so no cell
        finally:
            os._exit(0)
    os.close(told)
    with open(answer, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said or RUNS


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    library_call(
        "mount", source.encode(), target.encode(), kind.encode(), flags, options.encode(), about=target
    )


def _with_power_to_mount() -> None:
    """Mounts of our own to rearrange; without CAP_SYS_ADMIN by way of a user namespace."""
    try:
        library_call("unshare", _NEWNS)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        library_call("unshare", _NEWUSER | _NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _mount("", "/", "", _PRIVATE | _REC)


class Attempts:
    """Each public method is one. `program` is a static one that needs no other file, `bundle` the container's.

    `rootfs/attempt` in the bundle is a program with a hard link beside the root, $ATTEMPTS_AGAIN another mount of the
    root. The working directory is the root since before the engine started, but for the attempts on a set.
    """

    def __init__(self, program: bytes, bundle: str, scratch: str) -> None:
        self._program = program
        self._bundle = bundle
        self._scratch = scratch

    def _written(self, directory: str) -> str:
        path = os.path.join(directory, f"busybox-{os.getpid()}")
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o755)) as file:
            file.write(self._program)
        return path

    def a_program_of_the_host(self) -> str:
        """`/bin/true`"""
        return execute(TRUE)

    def a_setuid_helper(self) -> str:
        """a setuid-root helper"""
        for path in _SETUID_HELPERS:
            with contextlib.suppress(OSError):
                if os.stat(path).st_mode & stat.S_ISUID:
                    return execute(path)
        return "no such helper"

    def the_dynamic_loader(self) -> str:
        """the dynamic loader, with a program"""
        for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"):
            if os.path.exists(path):
                return execute(path, TRUE)
        return "no such loader"

    def a_script(self) -> str:
        """a script of the container, whose interpreter is the host's `/bin/sh`"""
        return execute(os.path.join(self._bundle, "rootfs", "script"))

    def a_library(self) -> str:
        """a library of the host, mapped to be executed"""

        def act() -> None:
            with open("/bin/true", "rb") as file:
                mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()

        return _in_a_child(act)

    def a_file_written_to_tmp(self) -> str:
        """a binary written to `/tmp`"""
        return _in_a_child(lambda: self._become(self._written(self._scratch)))

    def a_file_written_to_the_bundle(self) -> str:
        """a binary written to the bundle, beside its root"""
        return _in_a_child(lambda: self._become(self._written(self._bundle)))

    def a_file_written_to_the_root(self) -> str:
        """a binary written to the container's root"""
        return _in_a_child(lambda: self._become(self._written(os.path.join(self._bundle, "rootfs"))))

    def _rewritten(self, path: str) -> str:
        """Write a program by `path`, and execute it by its path in the root."""

        def act() -> None:
            with open(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                file.write(self._program)
            self._become(os.path.join(self._bundle, "rootfs", "attempt"))

        return _in_a_child(act)

    def a_hard_link(self) -> str:
        """a program of the container's root, written by a hard link beside the root"""
        return self._rewritten(os.path.join(self._bundle, "linked"))

    def another_mount(self) -> str:
        """the same, written by another mount of the root"""
        return self._rewritten(os.path.join(os.environ["ATTEMPTS_AGAIN"], "attempt"))

    def the_working_directory(self) -> str:
        """the same, written in the working directory, which is the root"""
        return self._rewritten("attempt")

    def a_file_of_the_root(self) -> str:
        """a program of the container's root, as the bundle has it"""
        return execute(os.path.join(self._bundle, "rootfs/bin/busybox"), "true")

    def a_descriptor(self) -> str:
        """`/bin/true` by `/proc/self/fd`"""

        def act() -> None:
            os.execve(f"/proc/self/fd/{os.open(TRUE, os.O_RDONLY)}", ["true"], {})

        return _in_a_child(act)

    def the_process_root(self) -> str:
        """`/bin/true` by `/proc/self/root`"""
        return execute("/proc/self/root/bin/true")

    def the_callers_root(self) -> str:
        """`/bin/true` by the caller's `/proc/PID/root`"""
        return execute(f"/proc/{os.getppid()}/root/bin/true")

    def the_callers_program(self) -> str:
        """the caller's shell by `/proc/PID/exe`"""
        return execute(f"/proc/{os.getppid()}/exe", "-c", ":")

    def the_callers_descriptor(self) -> str:
        """a program that the caller has open, by `/proc/PID/fd`"""
        return execute(f"/proc/{os.getppid()}/fd/0")

    def the_lock(self) -> str:
        """the lock's descriptor, which the supervisor keeps"""
        (kept,) = [number for number in _open_descriptors() if number > 2]
        return execute(f"/proc/self/fd/{kept}")

    def standard_input(self) -> str:
        """stdin, where the caller gave a program as a regular file"""
        return execute("/proc/self/fd/0")

    def a_file_in_memory(self) -> str:
        """a binary in a memfd"""

        def act() -> None:
            file = os.memfd_create("attempt")
            os.write(file, self._program)
            again = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
            os.close(file)  # what is open for writing cannot be executed
            os.execve(again, ["true"], {})

        return _in_a_child(act)

    def a_remount(self) -> str:
        """`/bin/true` after a remount of `/` without the flags"""

        def act() -> None:
            with contextlib.suppress(OSError):  # the answer is that of the first call that matters
                _with_power_to_mount()
            _mount("", "/", "", _REMOUNT | _BIND)
            os.execve(TRUE, [TRUE], {})

        return _in_a_child(act)

    def cleared_flags(self) -> str:
        """`/bin/true` after `mount_setattr(2)` took the flags from `/`"""

        def act() -> None:
            with contextlib.suppress(OSError):
                _with_power_to_mount()
            attributes = b"".join(number.to_bytes(8, sys.byteorder) for number in (0, 2 | _NOEXEC, 0, 0))
            system_call(MOUNT_SETATTR, -100, b"/", 0, attributes, len(attributes))
            os.execve(TRUE, [TRUE], {})

        return _in_a_child(act)

    def the_callers_mounts(self) -> str:
        """`/bin/true` in the caller's mount namespace"""

        def act() -> None:
            library_call("setns", os.open(f"/proc/{os.getppid()}/ns/mnt", os.O_RDONLY), _NEWNS)
            os.execve(TRUE, [TRUE], {})

        return _in_a_child(act)

    def the_callers_shell(self) -> str:
        """the caller's shell, taken over by `ptrace(2)`"""
        shell = os.getppid()
        return _in_a_child(lambda: library_call("ptrace", _PTRACE_SEIZE, shell, 0, 0))

    def the_callers_terminal(self) -> str:
        """input for the terminal, which the caller's shell would execute"""

        def act() -> None:
            os.setsid()
            _, terminal = pty.openpty()
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            fcntl.ioctl(terminal, termios.TIOCSTI, b"x")

        return _in_a_child(act)

    def the_outer_user_namespace(self) -> str:
        """the user namespace around the supervisor's own"""

        def act() -> None:
            outer = fcntl.ioctl(os.open("/proc/self/ns/user", os.O_RDONLY), _NS_GET_PARENT)
            library_call("setns", outer, _NEWUSER)

        return _in_a_child(act)

    def a_tmpfs(self) -> str:
        """a binary on a fresh tmpfs"""
        return self._on_a_new_mount("tmpfs", 0)

    def a_tmpfs_remounted(self) -> str:
        """a binary on a fresh noexec tmpfs, remounted read-only without noexec"""
        return self._on_a_new_mount("tmpfs", _NOEXEC, again=_REMOUNT | _BIND | _RDONLY)

    def an_overlay(self) -> str:
        """`/bin/true` on an overlay over `/bin`"""

        def act() -> None:
            _with_power_to_mount()
            empty = tempfile.mkdtemp(dir=self._scratch)
            _mount("overlay", self._scratch, "overlay", 0, f"lowerdir={os.path.realpath('/bin')}:{empty}")
            os.execve(os.path.join(self._scratch, "true"), ["true"], {})

        return _in_a_child(act)

    def a_bind_mount(self) -> str:
        """`/bin/true` on a bind mount of `/bin`"""

        def act() -> None:
            _with_power_to_mount()
            _mount(os.path.realpath("/bin"), self._scratch, "", _BIND)
            os.execve(os.path.join(self._scratch, "true"), ["true"], {})

        return _in_a_child(act)

    def the_newer_mount_calls(self) -> str:
        """a file system by `fsopen(2)`"""

        def act() -> None:
            _with_power_to_mount()
            system_call(FSOPEN, b"tmpfs", 0)

        return _in_a_child(act)

    def _on_a_new_mount(self, kind: str, flags: int, again: int = 0) -> str:
        def act() -> None:
            _with_power_to_mount()
            _mount(kind, self._scratch, kind, flags)
            path = self._written(self._scratch)
            if again:
                _mount("", self._scratch, "", again)
            self._become(path)

        return _in_a_child(act)

    @staticmethod
    def _become(path: str) -> None:
        os.execve(path, ["true"], {})


class AttemptsOnASet:
    """Those on a runsc of several files. `staged` is where runsc lies, `root` what it is given with --root.

    `stored` and `other` are a sidecar's names in the store and in another container's stage. The working directory is
    in the store since before the engine started.
    """

    def __init__(self, program: bytes, staged: str, root: str, stored: str, other: str, scratch: str) -> None:
        self._program = program
        self._runsc = staged
        self._sidecars = os.path.join(os.path.dirname(staged), "gvisor-bin")
        self._name = os.path.basename(other)
        self._root = root
        self._stored = stored
        self._other = other
        self._scratch = scratch

    @property
    def _sidecar(self) -> str:
        return os.path.join(self._sidecars, self._name)

    def _written(self, directory: str) -> str:
        path = os.path.join(directory, f"busybox-{os.getpid()}")
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o755)) as file:
            file.write(self._program)
        return path

    def _opened_for_writing(self, path: str, before: Callable[[], object] = lambda: None) -> str:
        """Whether the sidecar could be written by `path`, and is then executed."""

        def act() -> None:
            before()
            os.chmod(path, 0o700)
            os.close(os.open(path, os.O_WRONLY))
            os.chmod(path, 0o555)
            os.execve(self._sidecar, [self._sidecar], {})

        return _in_a_child(act)

    def a_sidecar(self) -> str:
        """a sidecar by its staged path, as runsc executes it"""
        return execute(self._sidecar)

    def the_staged_runsc(self) -> str:
        """the staged runsc by its path"""
        return execute(self._runsc)

    def its_name_in_the_store(self) -> str:
        """the same file by its name in the store"""
        return execute(self._stored)

    def its_name_in_another_stage(self) -> str:
        """the same file by its path in another container's stage"""
        return execute(self._other)

    def a_file_beside_it(self) -> str:
        """a binary written beside the sidecars"""
        return _in_a_child(lambda: Attempts._become(self._written(self._sidecars)))

    def a_file_in_the_store(self) -> str:
        """a binary written to the store"""
        return _in_a_child(lambda: Attempts._become(self._written(os.path.dirname(self._stored))))

    def a_file_in_runscs_root(self) -> str:
        """a binary written to runsc's own directory, which it needs to write"""
        return _in_a_child(lambda: Attempts._become(self._written(self._root)))

    def opened_for_writing(self) -> str:
        """a sidecar, opened for writing by its staged path"""
        return self._opened_for_writing(self._sidecar)

    def opened_by_the_store(self) -> str:
        """a sidecar, opened for writing by its name in the store"""
        return self._opened_for_writing(self._stored)

    def opened_by_another_stage(self) -> str:
        """a sidecar, opened for writing by its path in another container's stage"""
        return self._opened_for_writing(self._other)

    def opened_by_the_working_directory(self) -> str:
        """a sidecar, opened for writing in the working directory, which is the store"""
        return self._opened_for_writing(os.path.basename(self._stored))

    def opened_after_it_was_unmounted(self) -> str:
        """a sidecar, opened for writing after its mount was unmounted"""

        def unmount() -> None:
            with contextlib.suppress(OSError):
                _with_power_to_mount()
                library_call("umount2", self._sidecar.encode(), _DETACH)

        return self._opened_for_writing(self._sidecar, unmount)

    def opened_after_a_remount(self) -> str:
        """a sidecar, opened for writing after a remount of its mount without read-only"""

        def remount() -> None:
            with contextlib.suppress(OSError):
                _with_power_to_mount()
                _mount("", self._sidecar, "", _REMOUNT | _BIND)

        return self._opened_for_writing(self._sidecar, remount)

    def opened_on_a_bind_mount(self) -> str:
        """a sidecar, opened for writing on a bind mount of it"""
        target = os.path.join(self._scratch, "bound")

        def bind() -> None:
            with open(target, "wb"):
                pass
            _with_power_to_mount()
            _mount(self._sidecar, target, "", _BIND)

        return self._opened_for_writing(target, bind)

    def opened_beneath_the_mounts(self) -> str:
        """a sidecar, opened for writing on a bind mount of the directory around the base, without inner mounts"""
        around = os.path.dirname(os.path.dirname(os.path.dirname(self._root)))
        target = os.path.join(self._scratch, os.path.relpath(self._stored, around))

        def bind() -> None:
            _with_power_to_mount()
            _mount(around, self._scratch, "", _BIND)

        return self._opened_for_writing(target, bind)

    def linked(self) -> str:
        """a sidecar, linked into runsc's own directory"""

        def act() -> None:
            path = os.path.join(self._root, f"link-{os.getpid()}")
            os.link(self._sidecar, path)
            os.execve(path, [path], {})

        return _in_a_child(act)

    def in_its_place(self) -> str:
        """a binary in a sidecar's place, by `rename(2)`"""

        def act() -> None:
            os.rename(self._written(self._root), self._sidecar)
            os.execve(self._sidecar, ["true"], {})

        return _in_a_child(act)

    def in_the_place_of_all(self) -> str:
        """a binary in a sidecar's place, after the directory of the sidecars was renamed"""

        def act() -> None:
            os.rename(self._sidecars, self._sidecars + "-moved")
            os.mkdir(self._sidecars)
            os.rename(self._written(self._root), self._sidecar)
            os.execve(self._sidecar, ["true"], {})

        return _in_a_child(act)


def _in_words(attempts: type) -> Mapping[str, str]:
    return {name: str(method.__doc__) for name, method in vars(attempts).items() if not name.startswith("_")}


#: The attempts by name, with what each is in words.
ATTEMPTS = _in_words(Attempts)
ATTEMPTS_ON_A_SET = _in_words(AttemptsOnASet)


def _open_descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.append(int(name))
    return found


def _try_everything(program: int, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """In the place of execve(2): what it would close is closed, and then each attempt is made."""
    for descriptor in _open_descriptors():
        if not os.get_inheritable(descriptor):
            os.close(descriptor)
    with open(os.path.join(argv[argv.index("--bundle") + 1], "config.json")) as given:
        bundle = os.path.dirname(json.load(given)["root"]["path"])  # the caller's
    attempts = Attempts(_PROGRAM, bundle, _SCRATCH)
    answers = {name: getattr(attempts, name)() for name in ATTEMPTS}
    if "ATTEMPTS_STORED" in os.environ:
        root = argv[argv.index("--root") + 1]
        names = os.environ["ATTEMPTS_STORED"], os.environ["ATTEMPTS_OTHER"]
        on_a_set = AttemptsOnASet(_PROGRAM, argv[0], root, *names, _SCRATCH)
        answers |= {name: getattr(on_a_set, name)() for name in ATTEMPTS_ON_A_SET}
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    with open("/proc/self/status") as file:
        status = [line.partition(":") for line in file]
    confined = {
        # By mount point and flags; what is mounted where is numbered anew for each process.
        "mounts": sorted([fields[4], fields[5]] for fields in mounts),
        "status": {
            key: value.strip() for key, _, value in status if key in {"NoNewPrivs", "Seccomp", "CapEff"}
        },
    }
    os.write(1, json.dumps({"answers": answers, **confined}).encode())
    os._exit(0)


if __name__ == "__main__":
    from engine.cli.main import main

    ctypes.CDLL(None)
    with open(os.environ["ATTEMPTS_PROGRAM"], "rb") as file:
        _PROGRAM = file.read()
    _SCRATCH = os.environ["ATTEMPTS_SCRATCH"]
    tempfile.mkdtemp(dir=_SCRATCH)
    own = types.ModuleType("os")
    vars(own).update(vars(os), execve=_try_everything)
    vars(execute_step)["os"] = own  # the attempts themselves execute as ever
    raise SystemExit(main())
