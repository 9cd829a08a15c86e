"""Step `validate`: which binary is trusted, and that what was judged is what stays open."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.errors import ValidateError
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.validate import Identity, Validated, validate
from engine.linux import files
from engine.options import Platform


def pin(path: Path, platform: Platform = Platform.AUTO) -> Validated:
    return validate(Resolved(str(path), "option"), platform)


def test_a_binary_that_only_its_owner_can_write_is_pinned_with_its_facts(binary: Path) -> None:
    pinned = pin(binary)
    status = binary.stat()
    assert pinned.path == str(binary)
    assert pinned.identity == Identity.of(status) == Identity.of(os.fstat(pinned.descriptor))
    assert (pinned.owner, pinned.mode) == (status.st_uid, 0o755)
    assert not os.get_inheritable(pinned.descriptor)
    assert os.pread(pinned.descriptor, 4, 0) == b"\x7fELF"
    assert pinned.facts()["mode"] == "0755"
    assert pinned.facts()["immutable_store"] is False


def test_the_descriptor_stays_on_the_judged_file_when_the_path_is_swapped(binary: Path) -> None:
    content = binary.read_bytes()
    pinned = pin(binary)
    (binary.parent / "evil").write_bytes(b"\x7fELF evil")
    (binary.parent / "evil").rename(binary)
    assert os.pread(pinned.descriptor, len(content) + 1, 0) == content


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o722])
def test_a_binary_that_group_or_world_can_write_is_refused(binary: Path, mode: int) -> None:
    binary.chmod(mode)
    with pytest.raises(ValidateError, match=rf"can be written by group or world \(mode {mode:04o}\)"):
        pin(binary)


def test_a_binary_that_nobody_can_execute_is_refused(binary: Path) -> None:
    binary.chmod(0o644)
    with pytest.raises(ValidateError, match="not executable"):
        pin(binary)


def test_what_is_no_regular_file_is_refused_without_waiting(binary: Path) -> None:
    binary.unlink()
    binary.mkdir()
    with pytest.raises(ValidateError, match="not a regular file"):
        pin(binary)
    binary.rmdir()
    os.mkfifo(binary, 0o755)
    with pytest.raises(ValidateError, match="not a regular file"):
        pin(binary)


def test_what_is_not_there_any_more_is_refused(binary: Path) -> None:
    binary.unlink()
    with pytest.raises(ValidateError, match="No such file"):
        pin(binary)


@pytest.mark.usefixtures("needs_root")
def test_a_binary_of_another_user_is_refused(binary: Path) -> None:
    os.chown(binary, 4242, 4242)
    with pytest.raises(ValidateError, match="owned by uid 4242"):
        pin(binary)


@pytest.mark.usefixtures("needs_root")
def test_a_directory_of_another_user_on_the_way_is_refused(binary: Path) -> None:
    os.chown(binary.parent, 4242, 4242)
    with pytest.raises(ValidateError, match=rf"{binary.parent}' is owned by uid 4242"):
        pin(binary)


def test_a_directory_that_others_can_write_on_the_way_is_refused(binary: Path) -> None:
    binary.parent.chmod(0o777)
    with pytest.raises(ValidateError, match="unsafe permissions 0777"):
        pin(binary)


def test_a_sticky_directory_on_the_way_is_accepted_as_nobody_else_can_replace_our_file(binary: Path) -> None:
    binary.parent.chmod(0o1777)
    assert pin(binary).path == str(binary)


def test_a_link_is_followed_through_trusted_directories_to_the_real_file(binary: Path, private: Path) -> None:
    (private / "links").mkdir()
    link = private / "links" / "runsc"
    link.symlink_to("../bin/./runsc")
    assert pin(link).path == str(binary)
    absolute = private / "links" / "absolute"
    absolute.symlink_to(binary)
    assert pin(absolute).path == str(binary)


def test_a_link_in_a_directory_that_others_can_write_is_refused_though_its_target_is_trusted(
    binary: Path, private: Path
) -> None:
    loose = private / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    (loose / "runsc").symlink_to(binary)
    with pytest.raises(ValidateError, match=rf"{loose}' has unsafe permissions"):
        pin(loose / "runsc")


@pytest.mark.usefixtures("needs_root")
def test_another_users_link_in_a_sticky_directory_is_refused(binary: Path, private: Path) -> None:
    sticky = private / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "runsc").symlink_to(binary)
    os.lchown(sticky / "runsc", 4242, 4242)
    with pytest.raises(ValidateError, match="symbolic link that is owned by uid 4242"):
        pin(sticky / "runsc")


def test_links_that_go_in_a_circle_are_refused(private: Path) -> None:
    (private / "a").symlink_to("b")
    (private / "b").symlink_to("a")
    with pytest.raises(ValidateError, match="symbolic links"):
        pin(private / "a")


def test_a_file_that_is_no_elf_binary_is_refused(binary: Path) -> None:
    binary.write_bytes(b"MZ" + bytes(100))
    with pytest.raises(ValidateError, match="not an ELF binary"):
        pin(binary)
    binary.write_bytes(b"")
    with pytest.raises(ValidateError, match="not an ELF binary"):
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
    assert (pinned.path, pinned.wrapper) == (str(real), str(wrapper))
    assert pinned.identity == Identity.of(real.stat())


def test_the_last_exec_line_of_a_wrapper_decides(binary: Path, private: Path) -> None:
    wrapper = private / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec "{private}/old-runsc"\nexec "{binary}" "$@"\n')
    wrapper.chmod(0o755)
    assert pin(wrapper).path == str(binary)


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
    with pytest.raises(ValidateError, match="is a script and names no runsc binary"):
        pin(script)


def test_a_script_longer_than_a_wrapper_is_not_searched(binary: Path, private: Path) -> None:
    script = private / "runsc"
    script.write_text("#!/bin/sh\n" + "#" * 4096 + f'\nexec "{binary}"\n')
    script.chmod(0o755)
    with pytest.raises(ValidateError, match="is a script"):
        pin(script)


def test_a_wrapper_does_not_lend_its_trust_to_what_it_starts(binary: Path, private: Path) -> None:
    wrapper = private / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec "{binary}"\n')
    wrapper.chmod(0o755)
    binary.chmod(0o777)
    with pytest.raises(ValidateError, match="can be written by group or world"):
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
        assert pin(artefact).owner == 30001

    def test_an_artefact_that_its_owner_can_write_is_refused(self, artefact: Path) -> None:
        artefact.chmod(0o755)
        with pytest.raises(ValidateError, match="owned by uid 30001"):
            pin(artefact)

    def test_an_artefact_in_a_directory_that_can_be_written_is_refused(self, artefact: Path) -> None:
        artefact.parent.chmod(0o755)
        with pytest.raises(ValidateError, match="owned by uid 30001"):
            pin(artefact)

    def test_the_store_rule_holds_for_nothing_outside_the_store(self, artefact: Path, private: Path) -> None:
        outside = private.parent / "runsc"
        outside.write_bytes(artefact.read_bytes())
        outside.chmod(0o555)
        os.chown(outside, 30001, 30001)
        with pytest.raises(ValidateError, match="owned by uid 30001"):
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
        ((), Platform.AUTO, Platform.PTRACE),
        ((), Platform.SYSTRAP, Platform.SYSTRAP),
    ],
)
def test_the_platform_is_the_one_asked_for_and_auto_is_systrap_where_the_build_has_it(
    private: Path, has: tuple[str, ...], asked: Platform, used: Platform
) -> None:
    pinned = pin(build(private / "runsc", *has), asked)
    assert (pinned.platforms, pinned.platform) == (has, used)


def test_a_platform_that_the_build_does_not_have_is_refused(private: Path) -> None:
    with pytest.raises(ValidateError, match=r"without the platform systrap \(it has kvm, ptrace\)"):
        pin(build(private / "runsc", "ptrace", "kvm"), Platform.SYSTRAP)


def test_a_refusal_leaves_no_descriptor_open(binary: Path) -> None:
    before = os.listdir("/proc/self/fd")
    binary.write_bytes(b"no")
    with pytest.raises(ValidateError):
        pin(binary)
    assert os.listdir("/proc/self/fd") == before


def test_the_trusted_owners_are_root_and_the_effective_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    status = os.stat("/bin/sh")
    assert status.st_uid == 0
    pinned = pin(Path(os.path.realpath("/bin/sh")))
    assert pinned.trusted_owners == (0, 1000)
    assert not stat.S_ISLNK(os.fstat(pinned.descriptor).st_mode)
