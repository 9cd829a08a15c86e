"""Where a container's things are kept: the reference's rules, value for value, and the lock protocol."""

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
from engine.state.base import artifact_base, open_base
from engine.state.cleanup import remove_container
from engine.state.container import LOCK, component, is_component, open_container, take_lock

#: Takes what is to happen, once, in between.
Interference = Callable[[Callable[[], None]], None]


@pytest.mark.parametrize(
    ("environment", "user", "mapped", "base"),
    [
        ({}, 0, False, "/run/nucleus-gvisor"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, False, "/run/nucleus-gvisor"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 0, True, "/run/user/7/nucleus-gvisor"),
        ({}, 0, True, "/run/nucleus-gvisor"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, False, "/run/user/7/nucleus-gvisor"),
        ({"XDG_RUNTIME_DIR": "run/user/7"}, 7, False, "/tmp/nucleus-gvisor-7"),
        ({"XDG_RUNTIME_DIR": ""}, 7, False, "/tmp/nucleus-gvisor-7"),
        ({}, 7, False, "/tmp/nucleus-gvisor-7"),
        ({"TMPDIR": "/var/tmp"}, 7, False, "/var/tmp/nucleus-gvisor-7"),
        ({"TMPDIR": ""}, 7, False, "/tmp/nucleus-gvisor-7"),
        ({"ENGINE_ARTIFACT_BASE": "/a"}, 0, False, "/a"),
        ({"NUCLEUS_GVISOR_ARTIFACT_BASE": "/n"}, 7, False, "/n"),
        ({"ENGINE_ARTIFACT_BASE": "/a", "NUCLEUS_GVISOR_ARTIFACT_BASE": "/n"}, 0, False, "/a"),
        ({"ENGINE_ARTIFACT_BASE": "", "NUCLEUS_GVISOR_ARTIFACT_BASE": ""}, 0, False, "/run/nucleus-gvisor"),
        ({"ENGINE_ARTIFACT_BASE": "here"}, 0, False, "/cwd/here"),
    ],
)
def test_the_artifact_base_follows_the_variables_the_user_and_the_namespace(
    environment: dict[str, str], user: int, mapped: bool, base: str
) -> None:
    assert artifact_base(environment, user=user, root_is_mapped=mapped, directory="/cwd") == base


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
def test_the_uid_map_tells_whether_root_is_an_ordinary_user_outside(uid_map: str, mapped: bool) -> None:
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


def test_the_lock_goes_with_the_process_that_replaced_the_one_that_took_it(private: Path) -> None:
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
def test_a_directory_whose_lock_cannot_be_opened_is_removed_if_it_was_made_for_it(
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

    def test_one_that_was_removed_before_it_could_be_opened_is_made_again(
        self, private: Path, parent: int, on_open: Interference
    ) -> None:
        on_open((private / "mine").rmdir)
        with contextlib.closing(make_private_directory(parent, str(private), "mine")) as mine:
            assert mine.is_named_in(parent)

    @pytest.mark.parametrize("used", [False, True])
    def test_one_that_was_made_and_cannot_be_opened_is_removed_unless_it_is_in_use(
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
