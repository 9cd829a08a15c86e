"""Where a container's state is kept, and the lock protocol."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.linux.files import UntrustedPathError, make_private_directory, open_private_directory
from engine.linux.namespaces import root_maps_to_unprivileged
from engine.state.base import chosen_base, open_base
from engine.state.cleanup import remove_container
from engine.state.container import LOCK, component, is_component, open_container, take_lock
from engine.state.legacy import other_bases

#: Takes what is to happen, once, in between.
Interference = Callable[[Callable[[], None]], None]


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have this process be a user, its effective uid here and outside; /run and /run/user/UID be somebody's."""

    def be(user: int, *, uid_map: str, run: int = 0, session: int | None = None) -> None:
        stat, lstat = os.stat, os.lstat

        def owned(path: str, owner: int) -> os.stat_result:
            fields = list(stat("/"))
            fields[4] = owner
            return os.stat_result(fields)

        def fake_stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
            return owned("/", run) if path == "/run" else stat(path, *arguments, **named)

        def fake_lstat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
            if not str(path).startswith("/run/user/"):
                return lstat(path, *arguments, **named)
            if session is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return owned("/", session)

        monkeypatch.setattr("os.geteuid", lambda: user)
        monkeypatch.setattr("os.stat", fake_stat)
        monkeypatch.setattr("os.lstat", fake_lstat)
        monkeypatch.setattr("engine.state.base.read_uid_map", lambda: uid_map)

    return be


WHOLE = "0 0 4294967295\n"


@pytest.mark.parametrize(
    ("user", "uid_map", "run", "session", "base"),
    [
        (0, WHOLE, 0, None, "/run/gvisor-engine"),
        (0, WHOLE, 0, 0, "/run/gvisor-engine"),
        (0, "0 100000 65536\n", 0, None, "/run/gvisor-engine"),  # the root of a system container
        (0, "0 7 1\n1 100000 65536\n", 65534, 0, "/run/user/7/gvisor-engine"),  # podman's, rootless
        (0, "0 7 1\n", 65534, 65534, "/tmp/gvisor-engine-7"),
        (0, "0 7 1\n", 65534, None, "/tmp/gvisor-engine-7"),
        (7, WHOLE, 0, 7, "/run/user/7/gvisor-engine"),
        (7, WHOLE, 0, 8, "/tmp/gvisor-engine-7"),
        (7, WHOLE, 0, None, "/tmp/gvisor-engine-7"),
        (7, "7 1000 1\n", 65534, 7, "/run/user/1000/gvisor-engine"),
    ],
)
def test_the_base_is_told_by_the_uid_alone(
    as_user: Callable[..., None], user: int, uid_map: str, run: int, session: int | None, base: str
) -> None:
    as_user(user, uid_map=uid_map, run=run, session=session)
    misleading = {
        "XDG_RUNTIME_DIR": "/elsewhere",
        "TMPDIR": "/elsewhere",
        "HOME": "/elsewhere",
        "NUCLEUS_GVISOR_ARTIFACT_BASE": "/elsewhere",
        "ENGINE_ARTIFACT_BASE": "",
    }
    assert chosen_base(misleading) == base


def test_a_base_can_be_chosen(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(private)
    assert chosen_base({"ENGINE_ARTIFACT_BASE": "/a"}) == "/a"
    assert chosen_base({"ENGINE_ARTIFACT_BASE": "here"}) == str(private / "here")
    assert other_bases({"ENGINE_ARTIFACT_BASE": "/a"}) == ()


@pytest.mark.parametrize(
    ("user", "session", "environment", "others"),
    [
        (0, None, {"XDG_RUNTIME_DIR": "/x"}, ["/run/nucleus-gvisor"]),
        (
            7,
            7,
            {"XDG_RUNTIME_DIR": "/x", "TMPDIR": "/t"},
            [
                "/x/nucleus-gvisor",
                "/tmp/gvisor-engine-7",
                "/run/user/7/nucleus-gvisor",
                "/t/nucleus-gvisor-7",
                "/tmp/nucleus-gvisor-7",
            ],
        ),
        (
            7,
            None,
            {"XDG_RUNTIME_DIR": "x", "TMPDIR": ""},
            ["/run/user/7/gvisor-engine", "/run/user/7/nucleus-gvisor", "/tmp/nucleus-gvisor-7"],
        ),
    ],
)
def test_earlier_state_directories_are_known(
    as_user: Callable[..., None],
    user: int,
    session: int | None,
    environment: dict[str, str],
    others: list[str],
) -> None:
    as_user(user, uid_map=WHOLE, session=session)
    assert list(other_bases(environment)) == others


@pytest.mark.parametrize(
    ("uid_map", "mapped"),
    [
        ("         0          0 4294967295\n", False),
        ("0 1000 1\n", True),
        ("1 100000 65536\n0 1000 1\n", True),
        ("0 0 0\n0 1000 1\n", True),
        ("", False),
        ("1000 1000 1\n", False),
        ("0 1000\n", False),
        ("0 1000 1 9\n", False),
        ("x 1000 1\n0 0 1\n", False),
        ("0 -1 1\n", False),
        ("0 1000 1\n0 0 1\n", True),
    ],
)
def test_uid_map_tells_whether_root_is_a_user_outside(uid_map: str, mapped: bool) -> None:
    assert root_maps_to_unprivileged(uid_map) is mapped


@pytest.mark.parametrize("plain", ["0123456789abcdef" * 2, "0123456789ABCDEF" * 2])
def test_an_id_of_32_hexadecimal_digits_is_its_own_component(plain: str) -> None:
    assert component(plain) == plain


@pytest.mark.parametrize(
    "container_id", ["web", "0123456789abcdef", "g" * 32, "a" * 33, "\u0663" * 32, "a" * 31 + "\n"]
)
def test_any_other_id_becomes_a_digest_that_is_a_plain_name(container_id: str) -> None:
    name = component(container_id)
    assert name == "id-" + hashlib.sha256(container_id.encode()).digest()[:16].hex()
    assert is_component(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "web", "id-", "id-" + "g" * 32, "id-" + "a" * 33, "a" * 32 + "\n"]
)
def test_what_the_engine_did_not_name_is_not_taken_for_its_own(name: str) -> None:
    assert not is_component(name)


def test_a_base_that_ends_in_no_name_is_refused() -> None:
    for path in ("/", "/tmp/..", "/tmp/."):
        with pytest.raises(UntrustedPathError, match="does not end in the name of a directory"):
            open_base(path)


def test_a_parent_component_or_nul_in_the_base_is_refused(private: Path) -> None:
    with pytest.raises(UntrustedPathError, match="parent-directory component"):
        open_base(f"{private}/x/../base")
    with pytest.raises(UntrustedPathError, match="NUL"):
        open_base(f"{private}/\0")


def test_the_lock_is_held_until_its_descriptor_is_closed(private: Path) -> None:
    base = open_base(str(private / "base"))
    container, lock = open_container(base, component("web"))
    assert lock is not None
    _, second = open_container(base, component("web"))
    assert second is None
    os.close(lock)
    third = take_lock(container)
    assert third is not None


def test_lock_stays_with_the_process_after_execve(private: Path) -> None:
    base = open_base(str(private / "base"))
    container, lock = open_container(base, component("web"))
    assert lock is not None
    with subprocess.Popen(["/bin/sleep", "60"], pass_fds=[lock]) as heir:
        os.close(lock)
        assert take_lock(container) is None
        heir.kill()
    assert take_lock(container) is not None


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(private: Path) -> None:
    base = open_base(str(private / "base"))
    container, lock = open_container(base, component("web"))
    assert lock is not None
    # Another engine that waits in the kernel with the old file open must not end up holding a dead name.
    code = (
        "import os,sys\nfrom engine.state.base import open_base\nfrom engine.state.container import open_container\n"
        f"base = open_base({str(private / 'base')!r})\n"
        f"c, lock = open_container(base, {component('web')!r})\n"
        "assert os.path.samestat(os.fstat(lock), os.stat('lock', dir_fd=c.descriptor)); print('held')"
    )
    remove_container(base, container)
    os.close(lock)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "held\n"


def test_a_lock_that_is_a_link_or_anothers_is_refused(private: Path) -> None:
    base = open_base(str(private / "base"))
    name = component("web")
    (private / "base" / name).mkdir(mode=0o700)
    (private / "base" / name / "lock").symlink_to(private / "victim")
    with pytest.raises(UntrustedPathError, match="symbolic link"):
        open_container(base, name)
    assert not (private / "victim").exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_new_directory_is_removed_if_its_lock_cannot_be_opened(
    private: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    base = open_base(str(private / "base"))
    name = component("web")
    if is_there:
        (private / "base" / name).mkdir(mode=0o700)
    real = os.open

    def opened(path: str, *arguments: Any, **named: Any) -> int:
        if path == LOCK:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **named)

    monkeypatch.setattr("os.open", opened)
    with pytest.raises(OSError, match="Too many open files"):
        open_container(base, name)
    assert (private / "base" / name).exists() is is_there


def test_a_directory_in_which_another_engine_made_a_lock_stays(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(str(private / "base"))
    name = component("web")

    def locked(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", locked)
    with pytest.raises(OSError, match="Input/output error"):
        open_container(base, name)
    assert (private / "base" / name / LOCK).exists()


@pytest.mark.usefixtures("needs_root")
def test_a_lock_of_another_owner_is_refused(private: Path) -> None:
    base = open_base(str(private / "base"))
    name = component("web")
    (private / "base" / name).mkdir(mode=0o700)
    (private / "base" / name / "lock").touch()
    os.chown(private / "base" / name / "lock", 4242, 4242)
    with pytest.raises(UntrustedPathError, match="owned by uid 4242"):
        open_container(base, name)


class TestPrivateDirectory:
    """Each directory that the engine makes or adopts, whatever happens in its place meanwhile."""

    @pytest.fixture
    def parent(self, private: Path) -> Iterator[int]:
        descriptor = os.open(private, os.O_PATH | os.O_DIRECTORY)
        before = set(os.listdir("/proc/self/fd"))
        yield descriptor
        assert set(os.listdir("/proc/self/fd")) == before
        os.close(descriptor)

    @pytest.fixture
    def on_open(self, monkeypatch: pytest.MonkeyPatch) -> Interference:
        """Has something happen right before the directory `mine` is opened for the first time."""

        def arrange(happens: Callable[[], None]) -> None:
            real, happening = os.open, [happens]

            def opened(path: str, *arguments: Any, **named: Any) -> int:
                if path == "mine" and happening:
                    happening.pop()()
                return real(path, *arguments, **named)

            monkeypatch.setattr("os.open", opened)

        return arrange

    def test_it_tells_whether_it_was_made(self, private: Path, parent: int) -> None:
        for made in (True, False):
            with contextlib.closing(make_private_directory(parent, str(private), "mine")) as mine:
                assert (mine.path, mine.created) == (f"{private}/mine", made)
        with contextlib.closing(open_private_directory(parent, str(private), "mine")) as mine:
            assert (mine.path, mine.created) == (f"{private}/mine", False)

    def test_it_is_never_more_open_than_it_will_be(
        self, private: Path, parent: int, on_open: Interference
    ) -> None:
        modes = []
        on_open(lambda: modes.append((private / "mine").stat().st_mode & 0o7777))
        before = os.umask(0)
        try:
            make_private_directory(parent, str(private), "mine").close()
        finally:
            os.umask(before)
        assert modes == [0o700]

    def test_directory_removed_before_it_is_opened_is_made_again(
        self, private: Path, parent: int, on_open: Interference
    ) -> None:
        on_open((private / "mine").rmdir)
        with contextlib.closing(make_private_directory(parent, str(private), "mine")) as mine:
            assert mine.is_named_in(parent)

    @pytest.mark.parametrize("used", [False, True])
    def test_new_directory_not_opened_is_removed_if_unused(
        self, private: Path, parent: int, on_open: Interference, used: bool
    ) -> None:
        def no_descriptor_left() -> None:
            if used:
                (private / "mine" / "file").touch()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "mine")

        on_open(no_descriptor_left)
        with pytest.raises(OSError, match="Too many open files") as refused:
            make_private_directory(parent, str(private), "mine")
        assert (refused.value.errno, refused.value.filename) == (errno.EMFILE, f"{private}/mine")
        assert (private / "mine").exists() is used

    def test_one_that_was_there_and_cannot_be_opened_is_left(
        self, private: Path, parent: int, on_open: Interference
    ) -> None:
        def no_descriptor_left() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "mine")

        (private / "mine").mkdir()
        on_open(no_descriptor_left)
        with pytest.raises(OSError, match="Too many open files"):
            make_private_directory(parent, str(private), "mine")
        assert (private / "mine").is_dir()

    def test_an_error_names_the_whole_path(self, private: Path, parent: int) -> None:
        for act in (make_private_directory, open_private_directory):
            private.rmdir()
            with pytest.raises(FileNotFoundError) as refused:
                act(parent, str(private), "mine")
            private.mkdir()
            assert (refused.value.errno, refused.value.filename) == (errno.ENOENT, f"{private}/mine")

    def test_each_refusal_names_what_stands_there(
        self, private: Path, parent: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refusal(name: str) -> str:
            with pytest.raises(UntrustedPathError) as refused:
                make_private_directory(parent, str(private), name, tighten=False)
            return str(refused.value)

        (private / "link").symlink_to(private)
        assert refusal("link") == f"'{private}/link' is a symbolic link"
        (private / "file").touch()
        assert refusal("file") == f"'{private}/file' is not a directory"
        (private / "open").mkdir(mode=0o755)
        (private / "open").chmod(0o755)
        assert refusal("open") == f"'{private}/open' has permissions 0755 (expected 0700)"
        monkeypatch.setattr("os.geteuid", lambda: 4242)
        owner = private.stat().st_uid
        assert refusal("open") == f"'{private}/open' is owned by uid {owner} (expected uid 4242)"
