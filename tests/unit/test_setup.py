"""What `./just` promises before the engine runs: parts by name, one clear line when it cannot, nothing half done."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.bundle.bundle import open_bundle
from engine.lifecycle.resolve import TRUSTED_PATHS
from tools import SetupError, busybox, debian, system_parts
from tools.make_rootfs import main as make_rootfs_main
from tools.make_rootfs import make_rootfs

ROOT = Path(__file__).parents[2]


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# Which parts


def test_setup_and_the_engine_look_for_runsc_in_the_same_places() -> None:
    assert system_parts.RUNSC_PATHS == TRUSTED_PATHS


def test_systrap_is_told_by_reading_the_binary(tmp_path: Path) -> None:
    old, new, empty = tmp_path / "old", tmp_path / "new", tmp_path / "empty"
    old.write_bytes(b"\0" * 5000 + b"pkg/sentry/platform/ptrace")
    new.write_bytes(b"\0" * 5000 + b"pkg/sentry/platform/systrap")
    empty.touch()
    assert [system_parts.has_systrap(str(path)) for path in (old, new, empty)] == [False, True, False]


def test_what_the_tests_lack_is_named_by_package_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_parts, "find_runsc", lambda: None)
    monkeypatch.setattr(system_parts, "static_busybox", lambda: "/bin/busybox")
    monkeypatch.setenv("PATH", str(tmp_path))
    script(tmp_path / "newuidmap", "")
    script(tmp_path / "dot", "")
    script(tmp_path / "chromium", "")
    script(tmp_path / "podman", "")
    monkeypatch.setattr(
        system_parts, "is_there", lambda path: path not in {"/usr/sbin/iptables", "/usr/sbin/nft"}
    )
    lacking = system_parts.missing("test")
    assert list(lacking) == [
        *("runsc", "default-jre-headless", "systemd", "uidmap"),
        *("iptables", "nftables", "iproute2", "openssh-client", "containerd"),
    ]
    assert all(lacking.values())
    assert list(system_parts.missing("run")) == ["runsc"]


def test_the_look_whether_anything_is_missing_imports_no_installer() -> None:
    code = (
        "import sys; from tools import system_parts as s; s.missing('run'); "
        "print({'subprocess', 'email', 'tools.debian'} & set(sys.modules))"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], cwd="/", text=True)
    assert answer.strip() == "set()"


def test_an_unknown_goal_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert system_parts.main(["everything"]) == 2
    assert capsys.readouterr().err == "usage: system_parts.py run|test|oci-suites\n"


def test_a_package_that_does_not_bring_what_it_should_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def install_nothing(wanted: Mapping[str, str], *, upgrade_runsc: bool) -> None:
        assert (list(wanted), upgrade_runsc) == (["runsc"], False)

    monkeypatch.setattr(system_parts, "find_runsc", lambda: None)
    monkeypatch.setattr(system_parts, "static_busybox", lambda: "/bin/busybox")
    monkeypatch.setattr(debian, "install", install_nothing)
    with pytest.raises(SetupError, match="installed runsc, but"):
        system_parts.install_missing("run")


def test_the_old_runsc_is_brought_once_and_where_it_cannot_be_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "old" / "runsc"
    monkeypatch.setattr(system_parts, "OLD_RUNSC", str(target))
    monkeypatch.setattr(debian, "extract_old_runsc", fails := Failing())
    monkeypatch.setattr(debian, "is_old", lambda: False)
    system_parts.keep_old_runsc()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(debian, "is_old", lambda: True)
    system_parts.keep_old_runsc()
    assert capsys.readouterr().err.endswith("setup: note: no such version; going on without it\n")
    target.parent.mkdir()
    target.touch()
    system_parts.keep_old_runsc()
    assert fails.asked == [str(target)]


class Failing:
    """Stands for an archive without what is wanted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, target: str) -> None:
        self.asked.append(target)
        raise SetupError("no such version")


# apt


@pytest.fixture
def fake_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian 12 in `tmp_path`: programs in bin/, apt's files in etc/, what was called in calls."""
    programs = tmp_path / "bin"
    script(
        programs / "apt-get",
        f"""\
echo "$*" >>{tmp_path}/calls
case "$*" in *" update"*) [ ! -e {tmp_path}/no-network ] || {{ echo E: no route; exit 100; }} ;; esac""",
    )
    script(programs / "apt-cache", f'cat {tmp_path}/"madison-$2" 2>/dev/null || :')
    (tmp_path / "madison-runsc").write_text(
        "runsc | 0.0 | http://mirror.example/debian trixie/main amd64 Packages\n"
    )
    (tmp_path / "madison-uidmap").write_text("uidmap | 1 | http://mirror.example/debian bookworm/main\n")
    sources, preferences = tmp_path / "etc/sources.list.d", tmp_path / "etc/preferences.d"
    sources.mkdir(parents=True)
    preferences.mkdir()
    (tmp_path / "etc/sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    keys = tmp_path / "keys"
    keys.touch()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(debian, "ETC_APT", str(tmp_path / "etc"))
    monkeypatch.setattr(debian, "SOURCE", str(sources / "gvisor-engine-trixie.sources"))
    monkeypatch.setattr(debian, "PIN", str(preferences / "gvisor-engine"))
    monkeypatch.setattr(debian, "_NEW_KEYS", str(keys))
    monkeypatch.setattr(
        platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def calls(system: Path) -> list[str]:
    path = system / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_debian_12_takes_runsc_and_nothing_else_from_debian_13(
    fake_system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debian.install({"runsc": "it runs the container"}, upgrade_runsc=False)
    assert calls(fake_system)[-1].endswith("install --no-install-recommends runsc/trixie")
    pin = (fake_system / "etc/preferences.d/gvisor-engine").read_text()
    entries = [entry.splitlines()[-3:] for entry in pin.strip().split("\n\n")]
    assert entries == [
        ["Package: *", "Pin: release n=trixie", "Pin-Priority: -1"],
        ["Package: runsc", "Pin: release n=trixie", "Pin-Priority: 990"],
    ]
    source = (fake_system / "etc/sources.list.d/gvisor-engine-trixie.sources").read_text()
    assert "Uris: http://mirror.example/debian\nSuites: trixie\nComponents: main\n" in source
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "setup: installing runsc: it runs the container"
    assert len(said) == 2


OLD_VERSION = "runsc | 0.0 | http://mirror.example/debian bookworm/main amd64 Packages\n"


def test_the_old_runsc_is_extracted_and_not_installed(fake_system: Path) -> None:
    """A fake archive, but the real dpkg-deb."""
    tree = fake_system / "package"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/runsc").write_text("old")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: runsc\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    script(
        fake_system / "bin/apt-get",
        f'echo "$*" >>{fake_system}/calls\n'
        f'case "$*" in *download*) dpkg-deb -b {fake_system}/package runsc_1.deb;; esac',
    )
    target = fake_system / "old" / "runsc"
    debian.extract_old_runsc(
        str(target)
    )  # of the lists at hand, Debian 12 has none: they are refreshed first
    (fake_system / "madison-runsc").write_text(OLD_VERSION)
    debian.extract_old_runsc(str(target))
    updated = "-q -y update -o APT::Update::Error-Mode=any"
    assert calls(fake_system) == [updated, *["-q download runsc/bookworm"] * 2]
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("old", 0o755)
    assert [path.name for path in target.parent.iterdir()] == ["runsc"]


def test_an_archive_without_the_old_runsc_is_named_in_apts_words(fake_system: Path) -> None:
    (fake_system / "madison-runsc").write_text(OLD_VERSION)
    script(fake_system / "bin/apt-get", "echo E: not found; exit 100")
    with pytest.raises(SetupError, match=r"^apt-get failed: E: not found$"):
        debian.extract_old_runsc(str(fake_system / "old"))
    assert not (fake_system / "old").exists()


def test_apt_never_sees_debian_13_unpinned(fake_system: Path) -> None:
    script(fake_system / "bin/install", f'echo "writes $5" >>{fake_system}/calls; exec /usr/bin/install "$@"')
    debian.install({"runsc": ""}, upgrade_runsc=False)
    assert [call for call in calls(fake_system) if call.startswith("writes")] == [
        f"writes {debian.PIN}",
        f"writes {debian.SOURCE}",
    ]


def test_a_mirror_without_debian_13_leaves_no_trace_of_it(fake_system: Path) -> None:
    (fake_system / "madison-runsc").write_text("runsc | 0.0 | http://mirror.example/debian bookworm/main\n")
    (fake_system / "no-network").touch()
    with pytest.raises(SetupError, match=r"E: no route.*gives no runsc of trixie"):
        debian.install({"runsc": ""}, upgrade_runsc=False)
    assert not list((fake_system / "etc/preferences.d").iterdir())
    assert not list((fake_system / "etc/sources.list.d").iterdir())


def test_a_debian_13_source_of_the_users_own_is_used_as_it_is(fake_system: Path) -> None:
    with (fake_system / "etc/sources.list").open("a") as file:
        file.write("deb http://other.example/debian trixie main\n")
    debian.install({"runsc": ""}, upgrade_runsc=False)
    assert calls(fake_system)[-1].endswith("runsc/trixie")
    assert not list((fake_system / "etc/preferences.d").iterdir())


def test_another_system_takes_its_own_runsc(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        platform, "freedesktop_os_release", lambda: {"ID": "ubuntu", "VERSION_CODENAME": "noble"}
    )
    debian.install({"runsc": ""}, upgrade_runsc=False)
    assert calls(fake_system)[-1].endswith("--no-install-recommends runsc")
    assert not list((fake_system / "etc/preferences.d").iterdir())


def test_an_old_runsc_of_another_system_is_left_alone(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "ubuntu"})
    debian.install({}, upgrade_runsc=True)
    assert calls(fake_system) == []


def test_an_archive_without_runsc_points_at_gvisors_own_instructions(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "ubuntu"})
    (fake_system / "madison-runsc").unlink()
    with pytest.raises(SetupError, match=r"have no runsc.*gvisor\.dev"):
        debian.install({"runsc": ""}, upgrade_runsc=False)


def test_one_broken_source_is_no_obstacle_when_the_packages_are_known(
    fake_system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake_system / "no-network").touch()
    debian.install({"uidmap": ""}, upgrade_runsc=False)
    assert calls(fake_system)[-1].endswith("uidmap")
    assert "E: no route; going on" in capsys.readouterr().err


def test_a_failed_update_is_one_line_with_apts_own_words(fake_system: Path) -> None:
    (fake_system / "no-network").touch()
    (fake_system / "madison-uidmap").unlink()
    with pytest.raises(SetupError) as refused:
        debian.install({"uidmap": ""}, upgrade_runsc=False)
    assert str(refused.value) == (
        "apt-get update failed: E: no route; check the network and the sources under /etc/apt"
    )


def test_a_system_without_apt_points_at_gvisors_own_instructions(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_system))
    with pytest.raises(SetupError, match=r"runsc: missing, .* no apt-get; .*gvisor\.dev"):
        debian.install({"runsc": ""}, upgrade_runsc=False)


def test_without_root_and_sudo_the_remedy_is_named(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(fake_system / "bin"))
    with pytest.raises(SetupError, match=r"^uidmap: only root can .* no sudo; .* `\./just setup`"):
        debian.install({"uidmap": ""}, upgrade_runsc=False)
    assert calls(fake_system) == []


def test_a_sudo_that_cannot_ask_is_quoted(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script(fake_system / "bin/sudo", "echo 'sudo: a password is required' >&2; exit 1")
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(SetupError, match="sudo: a password is required"):
            debian.install({"uidmap": ""}, upgrade_runsc=False)


def test_sudo_is_used_when_it_needs_no_password(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script(fake_system / "bin/sudo", f'echo "$*" >>{fake_system}/sudone; [ "$1" = -n ] || exec "$@"')
    debian.install({"uidmap": ""}, upgrade_runsc=False)
    assert all("apt-get" in line for line in (fake_system / "sudone").read_text().splitlines()[1:])
    assert calls(fake_system)[-1].endswith("uidmap")


def test_an_old_runsc_still_runs_where_nobody_can_become_root(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(fake_system / "bin"))
    debian.install({}, upgrade_runsc=True)
    assert "going on with the old one" in capsys.readouterr().err


def test_another_apt_is_waited_for(fake_system: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(
        fake_system / "bin/apt-get",
        f"""\
echo "$*" >>{fake_system}/calls
[ -e {fake_system}/second ] || {{ touch {fake_system}/second
echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)'
echo 'E: Unable to lock directory /var/lib/apt/lists/'; exit 100; }}""",
    )
    debian.install({"uidmap": ""}, upgrade_runsc=False)
    assert len([call for call in calls(fake_system) if " update" in call]) == 2
    assert "waiting up to 120 s" in capsys.readouterr().err


@pytest.mark.parametrize(("removed", "goes_on"), [("busybox", True), ("cryptsetup-initramfs", False)])
def test_nothing_is_removed_but_the_busybox_that_is_replaced(
    fake_system: Path, removed: str, goes_on: bool
) -> None:
    script(
        fake_system / "bin/apt-get",
        f'echo "$*" >>{fake_system}/calls\ncase "$*" in *--simulate*) echo "Remv {removed} [1.0]" ;; esac',
    )
    apt = debian.Apt([])
    if goes_on:
        apt.install(["busybox-static"])
    else:
        with pytest.raises(SetupError, match="would remove cryptsetup-initramfs"):
            apt.install(["busybox-static"])
    assert len(calls(fake_system)) == (2 if goes_on else 1)


# apt's sources


def sources(tmp_path: Path, name: str, text: str) -> list[dict[str, str]]:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return list(debian.configured_sources(tmp_path))


def test_a_one_line_source_keeps_its_mirror_and_options(tmp_path: Path) -> None:
    text = """\
# deb http://comment.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb http://security.example/debian bookworm-security main
deb [ arch=amd64,arm64 signed-by=/keys/a.gpg trusted=yes ] http://mirror.example/debian bookworm main contrib # why
"""
    assert debian.derived_source(sources(tmp_path, "sources.list", text)).splitlines()[1:] == [
        "Types: deb",
        "Uris: http://mirror.example/debian",
        "Suites: trixie",
        "Components: main",
        "Architectures: amd64 arm64",
        "Signed-By: /keys/a.gpg",
        "Trusted: yes",
    ]


def test_a_deb822_source_keeps_its_mirrors_and_an_embedded_key(tmp_path: Path) -> None:
    text = """\
Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

# a comment
types: deb deb-src
URIs: http://one.example/debian
# between
 http://two.example/debian
Suites: bookworm bookworm-updates
Components: contrib main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEabc
 -----END PGP PUBLIC KEY BLOCK-----
"""
    assert debian.derived_source(sources(tmp_path, "sources.list.d/debian.sources", text)).splitlines()[
        1:
    ] == [
        "Types: deb",
        "Uris: http://one.example/debian",
        " http://two.example/debian",
        "Suites: trixie",
        "Components: main",
        "Signed-By: ",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mDMEabc",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_our_own_source_is_not_taken_for_the_users(tmp_path: Path) -> None:
    text = "Types: deb\nURIs: http://x.example\nSuites: trixie\nComponents: main\n"
    assert sources(tmp_path, "sources.list.d/gvisor-engine-trixie.sources", text) == []


def test_without_a_source_to_derive_from_the_remedy_is_named(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    with pytest.raises(SetupError, match=r"no apt source with suite bookworm.*gvisor\.dev"):
        debian.derived_source(debian.configured_sources(tmp_path))


# The example's root file system


@pytest.fixture(scope="module")
def static() -> str:
    found = busybox.static_busybox()
    if found is None:
        pytest.fail(f"no static busybox among {', '.join(busybox.BUSYBOX_PATHS)}; ./just setup installs it")
    return found


def test_a_program_with_a_loader_is_not_static(tmp_path: Path, static: str) -> None:
    text = tmp_path / "text"
    text.write_text("x" * 100)
    assert busybox.is_static(static)
    assert not busybox.is_static(sys.executable)
    assert not busybox.is_static(str(text))


def test_the_root_file_system_is_made_once_and_is_readable_by_all(tmp_path: Path, static: str) -> None:
    directory = tmp_path / "rootfs"
    before = os.umask(0o077)
    try:
        assert make_rootfs(str(directory), static)
    finally:
        os.umask(before)
    assert not make_rootfs(str(directory), static)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.iterdir()]}
    assert modes == {
        "rootfs": 0o755, "bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "sys": 0o755, "tmp": 0o1777,
    }  # fmt: skip
    assert stat.S_IMODE((directory / "bin/busybox").stat().st_mode) == 0o755
    assert subprocess.check_output([directory / "bin/echo", "an applet"]) == b"an applet\n"


def test_many_may_make_it_at_once(tmp_path: Path, static: str) -> None:
    directory = tmp_path / "rootfs"
    together = threading.Barrier(8)

    def make(_: int) -> bool:
        together.wait()
        return make_rootfs(str(directory), static)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert made.count(True) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["rootfs"]


def test_a_directory_of_somebody_elses_is_left_alone(tmp_path: Path, static: str) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/precious").touch()
    with pytest.raises(SetupError, match="was not made by this"):
        make_rootfs(str(tmp_path / "rootfs"), static)
    assert [path.name for path in tmp_path.rglob("*")] == ["rootfs", "precious"]


def test_a_dynamic_busybox_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_rootfs_main([str(tmp_path / "rootfs"), sys.executable]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"setup: {sys.executable} is not a static")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_example_may_do_as_little_as_possible(tmp_path: Path, static: str) -> None:
    example = tmp_path / "hello"
    example.mkdir()
    (example / "config.json").write_bytes((ROOT / "examples/hello/config.json").read_bytes())
    make_rootfs(str(example / "rootfs"), static)
    open_bundle(str(example))
    text = (example / "config.json").read_text()
    assert '"readonly": true' in text
    assert '"noNewPrivileges": true' in text
    assert '"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []' in text


# The shim


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The shim in a checkout of its own, and a Python that only notes what it is asked to do."""
    (tmp_path / "just").write_bytes((ROOT / "just").read_bytes())
    (tmp_path / "just").chmod(0o755)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "Justfile").touch()
    for place in ("engine", "tools"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "code.py").touch()
    script(
        tmp_path / "programs/python3",
        f"""\
case "$*" in
-V) echo Python 3.11.9 ;;
-c*) [ ! -e {tmp_path}/too-old ] ;;
*compileall*) echo compile >>{tmp_path}/did; exec {sys.executable} "$@" ;;
*venv*) echo venv >>{tmp_path}/did; mkdir -p {tmp_path}/.venv/bin; rm -f {tmp_path}/.venv/*.stamp
    cp "$0" {tmp_path}/.venv/bin/python ;;
*pip*) echo pip >>{tmp_path}/did; sleep 0.2
    [ ! -e {tmp_path}/no-network ] || {{ echo WARNING: trying again; echo ERROR: nowhere; exit 1; }}
    printf '#!/bin/sh\\necho "just $*"\\n' >{tmp_path}/.venv/bin/just; chmod +x {tmp_path}/.venv/bin/just ;;
esac""",
    )
    return tmp_path


def shim(checkout: Path, *arguments: str, path: str = "/usr/bin:/bin") -> subprocess.Popen[str]:
    environment = {"PATH": f"{checkout}/programs:{path}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [checkout / "just", *arguments], env=environment, text=True, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def did(checkout: Path) -> list[str]:
    return (checkout / "did").read_text().split()


def test_the_first_call_sets_up_and_the_next_hands_over(checkout: Path) -> None:
    output, said = shim(checkout, "run", "a b").communicate()
    assert output == f"just --justfile {checkout}/Justfile run a b\n"
    assert [line.split(":")[0] for line in said.splitlines()] == ["just", "just"]
    assert did(checkout) == ["venv", "pip", "compile"]
    assert shim(checkout).communicate() == (f"just --justfile {checkout}/Justfile\n", "")
    assert did(checkout) == ["venv", "pip", "compile"]


def test_a_changed_pyproject_installs_again_into_the_same_venv(checkout: Path) -> None:
    shim(checkout).communicate()
    (checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    shim(checkout).communicate()
    assert did(checkout) == ["venv", "pip", "compile", "pip"]


def test_another_python_makes_another_venv(checkout: Path) -> None:
    shim(checkout).communicate()
    for python in (checkout / "programs/python3", checkout / ".venv/bin/python"):
        python.write_text(python.read_text().replace("3.11.9", "3.12.1"))
    shim(checkout).communicate()
    assert did(checkout) == ["venv", "pip", "compile", "venv", "pip", "compile"]


def test_a_set_up_that_failed_does_not_read_as_complete(checkout: Path) -> None:
    (checkout / "no-network").touch()
    process = shim(checkout)
    output, said = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert said.splitlines()[-1].startswith("just: pip failed: ERROR: nowhere; check the network")
    (checkout / "no-network").unlink()
    assert shim(checkout).communicate()[0].startswith("just --justfile")
    assert did(checkout) == ["venv", "pip", "pip", "compile"]


def test_two_at_once_set_up_once(checkout: Path) -> None:
    together = [shim(checkout) for _ in range(4)]
    outputs = [process.communicate()[0] for process in together]
    assert outputs == [f"just --justfile {checkout}/Justfile\n"] * 4
    assert did(checkout) == ["venv", "pip", "compile"]


def test_without_a_new_enough_python_the_remedy_is_named(checkout: Path) -> None:
    (checkout / "too-old").touch()
    for version in ("3.14", "3.13", "3.12", "3.11"):
        script(checkout / f"programs/python{version}", "exit 1")
    process = shim(checkout)
    assert process.communicate()[1] == (
        "just: no Python >= 3.11 found; install python3 and python3-venv with this system's package manager\n"
    )
    assert process.returncode == 1


def test_changed_sources_are_compiled_again(checkout: Path) -> None:
    shim(checkout).communicate()
    (checkout / "engine/code.py").write_text("x = 1\n")
    for _ in range(2):
        assert shim(checkout).communicate()[1] == ""
    assert did(checkout) == ["venv", "pip", "compile", "compile"]


def test_a_source_that_cannot_be_compiled_stops_nothing(checkout: Path) -> None:
    (checkout / "engine/wrong.py").write_text("x = = 1\n")
    assert shim(checkout).communicate()[0].startswith("just --justfile")
    assert len(list((checkout / "engine/__pycache__").iterdir())) == 1


def test_where_venv_cannot_be_written_the_command_is_run_all_the_same(checkout: Path) -> None:
    shim(checkout).communicate()
    (checkout / "engine/code.py").write_text("x = 1\n")
    (checkout / ".venv").chmod(0o555)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*powerless, checkout / "just"], capture_output=True, text=True, cwd="/", check=True
    )
    assert (done.stdout, done.stderr) == (f"just --justfile {checkout}/Justfile\n", "")
    assert did(checkout) == ["venv", "pip", "compile"]
    (checkout / ".venv").chmod(0o755)


def imported_from(checkout: Path, *, bytecode: bool) -> set[str]:
    """The engine's modules that a dry run imports from bytecode, or from their sources."""
    bundle = checkout / "bundle"
    (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
    process = {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}}
    config = {"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs", "readonly": True}}
    (bundle / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-v", "-m", "engine", "run", bundle, "--dry-run", "--runsc", "/bin/true"],
        cwd=checkout,
        env={"PYTHONDONTWRITEBYTECODE": "1", "ENGINE_ARTIFACT_BASE": str(checkout / "base")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    ending = "pyc" if bytecode else "py"
    return set(
        re.findall(rf"^# code object from '?({checkout}/engine/\S+\.{ending})'?$", done.stderr, re.MULTILINE)
    )


def test_after_set_up_no_source_of_the_engine_is_compiled_at_a_start(checkout: Path) -> None:
    """Though an import may write no bytecode (PYTHONDONTWRITEBYTECODE), and again after an edit."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "engine", checkout / "engine", ignore=ignored, dirs_exist_ok=True)
    shutil.copytree(ROOT / "specs", checkout / "specs")
    from_source = imported_from(checkout, bytecode=False)
    assert len(from_source) > 20
    shim(checkout).communicate()
    assert len(imported_from(checkout, bytecode=True)) == len(from_source)
    assert imported_from(checkout, bytecode=False) == set()
    edited = checkout / "engine/errors.py"
    edited.write_text(edited.read_text() + "x = 1\n")
    assert imported_from(checkout, bytecode=False) == {str(edited)}
    shim(checkout).communicate()
    assert imported_from(checkout, bytecode=False) == set()


# The menu


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["test"],
            ["ruff check", "ruff format", "mypy", "lint-imports", "engine check --mutants", "pytest -n 2"],
        ),
        (["test", "tests/unit/test_x.py", "-k", "a or b"], ["pytest tests/unit/test_x.py -k a or b"]),
        (["test", "-x"], ["pytest -x"]),
        (["unit"], ["pytest -o testpaths=tests/unit -n 2"]),
        (
            ["unit", "tests/unit/test_x.py::test_y"],
            ["pytest -o testpaths=tests/unit tests/unit/test_x.py::test_y"],
        ),
    ],
)
def test_only_what_is_named_is_run(tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    (tmp_path / "Justfile").write_bytes((ROOT / "Justfile").read_bytes())
    script(
        tmp_path / ".venv/bin/python",
        f"""[ "$1" != -P ] || shift
case "$2 $3" in "ruff check" | "ruff format") echo "$2 $3" ;; mypy*) echo mypy ;; engine*) shift; echo "$*" ;;
pytest*) shift 2; [ -z "$PYTHONDONTWRITEBYTECODE" ] || exit 9; echo pytest "$@" ;; esac >>{tmp_path}/did""",
    )
    script(tmp_path / ".venv/bin/lint-imports", f"echo lint-imports >>{tmp_path}/did")
    just = Path(sys.executable).parent / "just"
    justfile = tmp_path / "Justfile"
    subprocess.run(
        [just, "--justfile", justfile, *arguments],
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (tmp_path / "did").read_text().splitlines() == expected
