"""Step `validate`: which binary is trusted, and that what was judged is what stays open."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason, ValidateError
from engine.lifecycle import validate as validate_step
from engine.lifecycle.resolve import TRUSTED_PATHS, Resolved
from engine.lifecycle.validate import Validated, validate
from engine.linux import files
from engine.linux.regular_files import Identity
from engine.options import Platform
from tests.support.objects import changed
from tests.support.refusals import refuses


def pin(path: Path, platform: Platform = Platform.AUTO) -> Validated:
    return validate(Resolved(str(path), "option"), platform)


def refused(path: Path, reason: str, *facts: object, platform: Platform = Platform.AUTO) -> None:
    """`validate` refuses, for this reason."""
    with refuses(ValidateError, reason, *facts) as refusal:
        pin(path, platform)
    assert refusal.value.step == "validate"


def test_binary_only_its_owner_can_write_is_pinned(binary: Path) -> None:
    pinned = pin(binary)
    status = binary.stat()
    assert pinned.runsc.path == str(binary)
    assert pinned.runsc.identity == Identity.of(status) == Identity.of(os.fstat(pinned.runsc.descriptor))
    assert (pinned.runsc.owner, pinned.runsc.mode) == (status.st_uid, 0o755)
    assert not os.get_inheritable(pinned.runsc.descriptor)
    assert os.pread(pinned.runsc.descriptor, 4, 0) == b"\x7fELF"
    assert pinned.facts() == {
        "path": str(binary),
        "wrapper": None,
        "identity": {
            "device": status.st_dev,
            "inode": status.st_ino,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
        },
        "owner": status.st_uid,
        "mode": "0755",
        "trusted_owners": sorted({0, os.geteuid()}),
        "immutable_store": False,
        "platforms": ["systrap", "kvm", "ptrace"],
        "platform": "systrap",
        "creation_flags": [],
        "starts_sidecars": False,
    }


@pytest.mark.parametrize(
    ("path", "mode", "immutable"),
    [
        ("/nix/store/0-gvisor/bin/runsc", 0o555, True),
        ("/nix/store/0-gvisor/bin/runsc", 0o755, False),
        ("/nix/store/0-gvisor/bin/runsc", 0o575, False),
        ("/nix/store/0-gvisor/bin/runsc", 0o557, False),
        ("/usr/bin/runsc", 0o555, False),
    ],
)
def test_only_unwritable_nix_store_paths_are_immutable(
    binary: Path, path: str, mode: int, immutable: bool
) -> None:
    validated = pin(binary)
    moved = changed(validated, runsc=changed(validated.runsc, path=path, mode=mode))
    assert moved.facts()["immutable_store"] is immutable


@pytest.mark.parametrize("mode", [0o500, 0o410, 0o401, 0o601, 0o755])
def test_a_binary_that_anybody_at_all_may_execute_is_pinned(binary: Path, mode: int) -> None:
    binary.chmod(mode)
    assert pin(binary).runsc.mode == mode


def _replaced_by_a_directory(binary: Path) -> None:
    binary.unlink()
    binary.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason", "fact"),
    [
        (Path.unlink, Reason.ABSENT, "No such file or directory"),
        (_replaced_by_a_directory, Reason.NOT_A_PROGRAM, ""),
        (lambda binary: binary.chmod(0o775), Reason.LOOSE_MODE, "0775"),
        (lambda binary: binary.chmod(0o644), Reason.NOT_A_PROGRAM, "0644"),
        (lambda binary: binary.write_bytes(b"\x7fELV"), Reason.NOT_A_PROGRAM, ""),
        (lambda binary: binary.write_text("#!/bin/sh\n"), Reason.NOT_A_PROGRAM, ""),
        (lambda binary: build(binary, "ptrace", "systrap"), Reason.NO_PLATFORM, "systrap, ptrace"),
    ],
)
def test_each_refusal_has_its_reason_and_says_where(
    binary: Path, spoil: Callable[[Path], object], reason: str, fact: str
) -> None:
    spoil(binary)
    refused(binary, reason, repr(str(binary)), fact, platform=Platform.KVM)


@pytest.mark.parametrize("failure", [errno.EACCES, errno.EMFILE])
def test_a_binary_that_cannot_be_read_is_refused(
    binary: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    real = os.open

    def unreadable(path: str, *arguments: Any, **named: Any) -> int:
        if path.startswith("/proc/self/fd/"):
            raise OSError(failure, os.strerror(failure), path)
        return real(path, *arguments, **named)

    monkeypatch.setattr("os.open", unreadable)
    refused(binary, Reason.FAILURE, repr(str(binary)), os.strerror(failure))


def test_descriptor_stays_on_the_judged_file_after_a_swap(binary: Path) -> None:
    content = binary.read_bytes()
    pinned = pin(binary)
    (binary.parent / "evil").write_bytes(b"\x7fELF evil")
    (binary.parent / "evil").rename(binary)
    assert os.pread(pinned.runsc.descriptor, len(content) + 1, 0) == content


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o722])
def test_a_binary_that_group_or_world_can_write_is_refused(binary: Path, mode: int) -> None:
    binary.chmod(mode)
    with refuses(ValidateError, Reason.LOOSE_MODE, f"{mode:04o}"):
        pin(binary)


def test_a_binary_that_nobody_can_execute_is_refused(binary: Path) -> None:
    binary.chmod(0o644)
    with refuses(ValidateError, Reason.NOT_A_PROGRAM):
        pin(binary)


def test_what_is_no_regular_file_is_refused_without_waiting(binary: Path) -> None:
    binary.unlink()
    binary.mkdir()
    with refuses(ValidateError, Reason.NOT_A_PROGRAM):
        pin(binary)
    binary.rmdir()
    os.mkfifo(binary, 0o755)
    with refuses(ValidateError, Reason.NOT_A_PROGRAM):
        pin(binary)


def test_what_is_not_there_any_more_is_refused(binary: Path) -> None:
    binary.unlink()
    with refuses(ValidateError, Reason.ABSENT):
        pin(binary)


@pytest.mark.usefixtures("needs_root")
def test_a_binary_of_another_user_is_refused(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(binary, 4242, 4242)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    refused(binary, Reason.FOREIGN_OWNER, repr(str(binary)), 4242, 1000)


@pytest.mark.usefixtures("needs_root")
def test_a_directory_of_another_user_on_the_way_is_refused(binary: Path) -> None:
    os.chown(binary.parent, 4242, 4242)
    with refuses(ValidateError, Reason.LOOSE_CHAIN, f"{binary.parent}'", 4242):
        pin(binary)


def test_a_directory_that_others_can_write_on_the_way_is_refused(binary: Path) -> None:
    binary.parent.chmod(0o777)
    refused(binary, Reason.LOOSE_CHAIN, repr(str(binary)), repr(str(binary.parent)), "0777")


def test_sticky_directory_on_the_way_is_accepted(binary: Path) -> None:
    binary.parent.chmod(0o1777)
    assert pin(binary).runsc.path == str(binary)


def test_link_in_trusted_directories_is_followed(binary: Path, private: Path) -> None:
    (private / "links").mkdir()
    link = private / "links" / "runsc"
    link.symlink_to("../bin/./runsc")
    assert pin(link).runsc.path == str(binary)
    absolute = private / "links" / "absolute"
    absolute.symlink_to(binary)
    assert pin(absolute).runsc.path == str(binary)


def test_link_in_a_directory_others_can_write_is_refused(binary: Path, private: Path) -> None:
    loose = private / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    (loose / "runsc").symlink_to(binary)
    with refuses(ValidateError, Reason.LOOSE_CHAIN, f"{loose}'"):
        pin(loose / "runsc")


@pytest.mark.usefixtures("needs_root")
def test_another_users_link_in_a_sticky_directory_is_refused(binary: Path, private: Path) -> None:
    sticky = private / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "runsc").symlink_to(binary)
    os.lchown(sticky / "runsc", 4242, 4242)
    with refuses(ValidateError, Reason.LOOSE_CHAIN, 4242):
        pin(sticky / "runsc")


def test_links_that_go_in_a_circle_are_refused(private: Path) -> None:
    (private / "a").symlink_to("b")
    (private / "b").symlink_to("a")
    with refuses(ValidateError, Reason.FAILURE, os.strerror(errno.ELOOP)):
        pin(private / "a")


def test_a_file_that_is_no_elf_binary_is_refused(binary: Path) -> None:
    binary.write_bytes(b"MZ" + bytes(100))
    with refuses(ValidateError, Reason.NOT_A_PROGRAM):
        pin(binary)
    binary.write_bytes(b"")
    with refuses(ValidateError, Reason.NOT_A_PROGRAM):
        pin(binary)


@pytest.mark.parametrize(
    "line", ['exec -a "$0" "{}"  "$@"', 'exec "{}" "$@"', '  exec {} "$@"', 'exec "{}" "$@"\n# the end']
)
def test_a_nix_wrapper_leads_to_the_binary_it_starts(binary: Path, private: Path, line: str) -> None:
    real = binary.rename(binary.with_name(".runsc-wrapped"))
    wrapper = private / "runsc"
    wrapper.write_text("#! /bin/bash -e\nexport PATH=/x:$PATH\n" + line.format(real) + "\n")
    wrapper.chmod(0o755)
    pinned = pin(wrapper)
    assert (pinned.runsc.path, pinned.wrapper) == (str(real), str(wrapper))
    assert pinned.runsc.identity == Identity.of(real.stat())


def test_the_last_exec_line_of_a_wrapper_decides(binary: Path, private: Path) -> None:
    wrapper = private / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec "{private}/old-runsc"\nexec "{binary}" "$@"\n')
    wrapper.chmod(0o755)
    assert pin(wrapper).runsc.path == str(binary)


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\necho runsc\n",
        "#!/bin/sh\nexec runsc\n",
        '#!/bin/sh\nexec "/no/such/runsc"\n',
        "#!/bin/sh\nexec /bin/true\n",
    ],
)
def test_any_other_script_is_refused(private: Path, text: str) -> None:
    script = private / "runsc"
    script.write_text(text)
    script.chmod(0o755)
    with refuses(ValidateError, Reason.NOT_A_PROGRAM):
        pin(script)


@pytest.mark.parametrize(("size", "followed"), [(4096, True), (4097, False)])
def test_a_script_longer_than_a_wrapper_is_not_searched(
    binary: Path, private: Path, size: int, followed: bool
) -> None:
    script = private / "runsc"
    text = f'#!/bin/sh\nexec "{binary}"\n#'
    script.write_text(text.ljust(size, "#"))
    script.chmod(0o755)
    if followed:
        assert pin(script).runsc.path == str(binary)
    else:
        refused(script, Reason.NOT_A_PROGRAM, repr(str(script)))


def test_wrapper_need_not_be_utf_8(binary: Path, private: Path) -> None:
    real = binary.rename(binary.with_name("runsc-X"))
    script = private / "runsc"
    script.write_bytes(b"#!/bin/sh\n# M\xfcller\nexec %s\n" % os.fsencode(real))
    script.chmod(0o755)
    assert pin(script).runsc.path == str(real)


def test_a_wrapper_does_not_lend_its_trust_to_what_it_starts(binary: Path, private: Path) -> None:
    wrapper = private / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec "{binary}"\n')
    wrapper.chmod(0o755)
    binary.chmod(0o777)
    with refuses(ValidateError, Reason.LOOSE_MODE):
        pin(wrapper)


@pytest.mark.usefixtures("needs_root")
class TestNixStore:
    """The store's rules, on a store of our own: the real one is not on every machine."""

    @pytest.fixture
    def artefact(self, binary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(files, "_NIX_STORE", str(binary.parent.parent))
        os.chown(binary, 30001, 30001)
        binary.chmod(0o555)
        binary.parent.chmod(0o555)
        return binary

    def test_an_immutable_artefact_may_have_any_owner(self, artefact: Path) -> None:
        assert pin(artefact).runsc.owner == 30001

    def test_unmapped_owners_directory_is_trusted_if_unwritable(self, artefact: Path) -> None:
        os.chown(artefact.parent, 30001, 30001)
        assert pin(artefact).runsc.owner == 30001
        artefact.parent.chmod(0o755)
        with refuses(ValidateError, Reason.LOOSE_CHAIN, f"'{artefact.parent}'", 30001):
            pin(artefact)

    def test_an_artefact_that_its_owner_can_write_is_refused(self, artefact: Path) -> None:
        artefact.chmod(0o755)
        with refuses(ValidateError, Reason.FOREIGN_OWNER, 30001):
            pin(artefact)

    def test_binary_in_a_directory_others_can_write_is_refused(self, artefact: Path) -> None:
        artefact.parent.chmod(0o755)
        with refuses(ValidateError, Reason.FOREIGN_OWNER, 30001):
            pin(artefact)

    def test_the_store_rule_holds_for_nothing_outside_the_store(self, artefact: Path, private: Path) -> None:
        outside = private.parent / "runsc"
        outside.write_bytes(artefact.read_bytes())
        outside.chmod(0o555)
        os.chown(outside, 30001, 30001)
        with refuses(ValidateError, Reason.FOREIGN_OWNER, 30001):
            pin(outside)


def build(path: Path, *platforms: str) -> Path:
    path.write_bytes(b"\x7fELF" + b"".join(b"pkg/sentry/platform/%s;" % name.encode() for name in platforms))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("has", "asked", "used"),
    [
        (("systrap", "kvm", "ptrace"), Platform.AUTO, Platform.SYSTRAP),
        (("kvm", "ptrace"), Platform.AUTO, Platform.PTRACE),
        (("systrap", "kvm", "ptrace"), Platform.KVM, Platform.KVM),
    ],
)
def test_platform_is_the_requested_and_auto_prefers_systrap(
    private: Path, has: tuple[str, ...], asked: Platform, used: Platform
) -> None:
    pinned = pin(build(private / "runsc", *has), asked)
    assert (pinned.capabilities.platforms, pinned.platform) == (has, used)


@pytest.mark.parametrize("asked", list(Platform))
def test_program_that_is_no_runsc_is_refused(private: Path, asked: Platform) -> None:
    path = private / "runsc"
    shutil.copy(os.path.realpath("/bin/true"), path)
    with refuses(ValidateError, Reason.NOT_A_PROGRAM, path):
        pin(path, asked)


def test_the_trusted_owners_are_root_and_the_effective_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    path = next(path for path in map(Path, TRUSTED_PATHS) if path.exists()).resolve()
    assert path.stat().st_uid == 0
    pinned = pin(path)
    assert pinned.trusted_owners == (0, 1000)
    assert not stat.S_ISLNK(os.fstat(pinned.runsc.descriptor).st_mode)


@pytest.mark.parametrize("unmapped", [None, 65534])
@pytest.mark.parametrize("trusted", [True, False])
def test_unmapped_owner_is_root_on_trusted_paths_only(
    binary: Path, monkeypatch: pytest.MonkeyPatch, unmapped: int | None, trusted: bool
) -> None:
    monkeypatch.setattr(validate_step, "unmapped_uid", lambda: unmapped)
    if trusted:
        monkeypatch.setattr(validate_step, "TRUSTED_PATHS", (str(binary),))
    owners = {0, os.geteuid()}
    if trusted and unmapped is not None:
        owners.add(unmapped)
    assert pin(binary).trusted_owners == tuple(sorted(owners))


class TestWalk:
    """`open_trusted`, on which the rest stands."""

    OWNERS = frozenset({0, os.geteuid()})

    def walk(self, path: Path | str, *, follow_links: bool = True, **named: Any) -> str:
        opened = files.open_trusted(str(path), self.OWNERS, follow_links=follow_links, **named)
        os.close(opened.descriptor)
        return opened.path

    def distrusted(self, path: Path | str, *, follow_links: bool = True, **named: Any) -> str:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(files.UntrustedPathError) as refused:
            self.walk(path, follow_links=follow_links, **named)
        assert os.listdir("/proc/self/fd") == before
        return str(refused.value)

    def test_nothing_on_the_way_is_opened_for_reading(self) -> None:
        opened = files.open_trusted("/", {0}, follow_links=False)
        flags = fcntl.fcntl(opened.descriptor, fcntl.F_GETFL)
        os.close(opened.descriptor)
        assert opened.path == "/"
        assert flags & (os.O_PATH | os.O_DIRECTORY) == os.O_PATH | os.O_DIRECTORY

    def test_a_path_that_is_not_absolute_is_a_mistake_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match=r"^'bin/sh' is not absolute$"):
            self.walk("bin/sh")

    def test_the_parent_of_the_root_is_the_root(self, private: Path) -> None:
        first = private.parts[1]
        assert self.walk(f"/../../{first}/..{private}") == str(private)

    def test_a_walk_without_links_refuses_one_and_a_parent_component(self, private: Path) -> None:
        (private / "link").symlink_to(private)
        assert self.distrusted(private / "link", follow_links=False) == f"'{private}/link' is a symbolic link"
        path = f"{private}/../private"
        assert self.distrusted(path, follow_links=False) == f"'{path}' has a parent-directory component '..'"

    @pytest.mark.usefixtures("needs_root")
    def test_another_users_link_is_refused(self, private: Path) -> None:
        (private / "link").symlink_to(private)
        os.lchown(private / "link", 4242, 4242)
        assert self.distrusted(private / "link") == (
            f"'{private}/link' is a symbolic link that is owned by uid 4242 (expected uid 0)"
        )

    def test_as_many_links_are_followed_as_by_the_kernel(self, private: Path) -> None:
        (private / "0").touch()
        for number in range(41):
            (private / f"{number + 1}").symlink_to(f"{number}")
        assert self.walk(private / "40") == str(private / "0")
        with pytest.raises(OSError, match="symbolic links") as refused:
            self.walk(private / "41")
        assert (refused.value.errno, refused.value.filename) == (errno.ELOOP, f"{private}/41")

    def test_an_error_names_the_part_that_failed(self, private: Path) -> None:
        (private / "file").touch()
        for path, number, part in [
            (private / "none" / "x", errno.ENOENT, private / "none"),
            (private / "file" / "x", errno.ENOTDIR, private / "file"),
        ]:
            with pytest.raises(OSError, match=str(part)) as refused:
                self.walk(path)
            assert (refused.value.errno, refused.value.filename) == (number, str(part))

    def test_directory_is_judged_itself_only_where_asked_for(self, private: Path) -> None:
        open_to_all = private / "open"
        open_to_all.mkdir()
        open_to_all.chmod(0o777)
        (private / "file").touch()
        assert self.walk(open_to_all) == str(open_to_all)
        assert self.distrusted(open_to_all, directory=True).startswith(f"'{open_to_all}' ")
        with pytest.raises(NotADirectoryError):
            self.walk(private / "file", directory=True)
        assert self.walk(private, directory=True) == str(private)

    @pytest.mark.usefixtures("needs_root")
    def test_unmapped_owner_is_trusted_above_our_own_directory(
        self, private: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (private / "theirs" / "ours" / "theirs" / "x").mkdir(parents=True)
        for path, uid in [("theirs", 65534), ("theirs/ours", 1000), ("theirs/ours/theirs", 65534)]:
            os.chown(private / path, uid, uid)
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        monkeypatch.setattr(self.__class__, "OWNERS", frozenset({0, 1000}))
        ours = private / "theirs" / "ours"
        assert self.walk(ours, unmapped=65534) == str(ours)
        their_own, theirs = private / "theirs", ours / "theirs"
        assert self.walk(their_own, unmapped=65534, directory=True) == str(their_own)
        for refused, more in [(theirs / "x", {}), (theirs, {"directory": True})]:
            assert self.distrusted(refused, unmapped=65534, **more) == (
                f"'{theirs}' is owned by uid 65534 (expected uid 0 or uid 1000)"
            )
        assert self.distrusted(ours) == (
            f"'{private}/theirs' is owned by uid 65534 (expected uid 0 or uid 1000)"
        )
