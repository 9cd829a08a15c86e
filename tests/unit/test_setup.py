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
from engine.survey import busybox
from tests.support.bundles import put_program
from tools import SetupError, debian, system_parts
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
        *("iptables", "nftables", "iproute2", "binutils", "openssh-client", "containerd"),
        *("openssl", "golang-go"),
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

#: An apt-get that knows one mirror, notes what it is asked, and gives a package with a program that names its release.
APT = r"""
here=$(dirname "$0")/..
echo "$*" >>"$here/calls"
case "$*" in
*indextargets*) [ ! -e "$here/mirror" ] || cat "$here/mirror" ;;
*" update") [ ! -e "$here/no-network" ] || { echo E: no route; exit 100; }
    case "$*" in *SourceList=*) list=${*#*SourceList=}; cat "${list%% *}" >>"$here/sources" ;; esac ;;
*download*) for name in ${*#* download }; do
    name=${name%/*}; mkdir -p tree/usr/bin tree/DEBIAN; echo "$*" >tree/usr/bin/$name
    printf 'Package: %s\nVersion: 1\nArchitecture: all\n' $name >tree/DEBIAN/control
    printf 'Maintainer: x <x@example.org>\nDescription: x\n' >>tree/DEBIAN/control
    dpkg-deb -b tree ${name}_1.deb >/dev/null; rm -r tree; done ;;
*--simulate*) [ ! -e "$here/removes" ] || sed 's/.*/Remv & [1.0]/' "$here/removes" ;;
*install*) [ ! -e "$here/unknown" ] || { echo E: Unable to locate package; exit 100; } ;;
esac
"""


def be(monkeypatch: pytest.MonkeyPatch, distribution: str, codename: str) -> None:
    """Let this system be that release."""
    release = {"ID": distribution, "VERSION_CODENAME": codename}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)


@pytest.fixture
def fake_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian 12 with root and `APT`, which notes what it is asked in `calls` and given as `sources`."""
    script(tmp_path / "bin" / "apt-get", APT)
    (tmp_path / "mirror").write_text("http://mirror.example/debian/\n")
    keys = tmp_path / "keys-{}.gpg"
    for release in (debian.OLD, debian.NEW):
        Path(str(keys).format(release)).touch()
    monkeypatch.setattr(debian, "KEYS", str(keys))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    be(monkeypatch, "debian", "bookworm")
    return tmp_path


def installed(system: Path) -> list[list[str]]:
    """The packages of each real installation."""
    path = system / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    marker = "install --no-install-recommends "
    return [line.split(marker)[1].split() for line in lines if marker in line and "--simulate" not in line]


def test_debian_12_takes_runsc_of_debian_13_from_its_own_mirror(fake_system: Path) -> None:
    debian.install({"runsc": "it runs the container", "uidmap": "ids"}, upgrade_runsc=False)
    [[first, package]] = installed(fake_system)
    assert first == "uidmap"
    assert package.endswith("/runsc_1.deb")
    assert not Path(package).exists()
    keys = debian.KEYS.format("trixie")
    source = f"deb [signed-by={keys}] http://mirror.example/debian/ trixie main\n"
    assert (fake_system / "sources").read_text() == source


def test_debian_12_takes_the_specification_of_debian_13(fake_system: Path) -> None:
    specification = "golang-github-opencontainers-specs-dev"
    debian.install({specification: "the schema"}, upgrade_runsc=False)
    debian.install({specification: "the schema", "runsc": "it runs the container"}, upgrade_runsc=False)
    assert [[package.rpartition("/")[2] for package in packages] for packages in installed(fake_system)] == [
        [f"{specification}_1.deb"],
        ["runsc_1.deb", f"{specification}_1.deb"],
    ]


def test_the_keys_of_debian_13_are_brought_first_where_they_are_missing(fake_system: Path) -> None:
    Path(debian.KEYS.format("trixie")).unlink()
    debian.install({}, upgrade_runsc=True)
    assert [packages[0].rpartition("/")[2] for packages in installed(fake_system)] == [
        "debian-archive-keyring",
        "runsc_1.deb",
    ]


@pytest.mark.parametrize(("distribution", "codename"), [("debian", "trixie"), ("ubuntu", "noble")])
def test_another_release_takes_its_own_runsc(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, codename: str
) -> None:
    be(monkeypatch, distribution, codename)
    debian.install({"runsc": ""}, upgrade_runsc=True)
    assert installed(fake_system) == [["runsc"]]
    debian.install({}, upgrade_runsc=True)
    assert len(installed(fake_system)) == 1


def test_a_runsc_that_dies_is_replaced_by_that_of_debian_13(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, "debian", "forky")
    debian.replace_runsc()
    [[flag, package]] = installed(fake_system)
    assert (flag, package.rpartition("/")[2]) == ("--allow-downgrades", "runsc_1.deb")
    assert " trixie main" in (fake_system / "sources").read_text()


@pytest.mark.parametrize(("die", "replaced"), [([False], False), ([True, False], True), ([True, True], True)])
def test_a_runsc_that_was_installed_is_tried(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch, die: list[bool], replaced: bool
) -> None:
    found: list[str] = []
    asked: list[str] = []
    monkeypatch.setattr(system_parts, "find_runsc", lambda: found[0] if found else None)
    monkeypatch.setattr(system_parts, "static_busybox", lambda: "/bin/busybox")
    monkeypatch.setattr(system_parts, "has_systrap", lambda _: True)
    monkeypatch.setattr(debian, "install", lambda *_, **__: found.append(system_parts.PACKAGED_RUNSC))
    monkeypatch.setattr(debian, "replace_runsc", lambda: asked.append("replaced"))
    answers = iter(die)
    monkeypatch.setattr(system_parts, "dies", lambda: next(answers))
    if die[-1]:
        with pytest.raises(SetupError, match="soon after its start"):
            system_parts.install_missing("run")
    else:
        system_parts.install_missing("run")
    assert asked == ["replaced"] * replaced
    assert list(answers) == []
    system_parts.install_missing("run")  # nothing is missing: it is not tried again


@pytest.mark.parametrize(("code", "dead"), [(2, True), (0, False), (128, False), (1, False)])
def test_a_runsc_that_ends_after_a_second_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, dead: bool
) -> None:
    """What Debian's build with a newer Go does: it starts, and a second later it ends without a word."""
    script(tmp_path / "engine", f"sleep 1; exit {code}")
    monkeypatch.setattr("engine.doctor.platforms.ENGINE", (str(tmp_path / "engine"),))
    assert system_parts.dies() is dead


def test_the_old_runsc_is_extracted_and_not_installed(fake_system: Path) -> None:
    target = fake_system / "old" / "runsc"
    debian.extract_old_runsc(str(target))
    assert "runsc/bookworm" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert [path.name for path in target.parent.iterdir()] == ["runsc"]
    assert " bookworm main" in (fake_system / "sources").read_text()
    assert installed(fake_system) == []


def test_a_mirror_that_cannot_be_reached_is_told_in_apts_words_and_leaves_nothing(fake_system: Path) -> None:
    (fake_system / "no-network").touch()
    with pytest.raises(SetupError, match="E: no route"):
        debian.install({"runsc": ""}, upgrade_runsc=False)
    with pytest.raises(SetupError, match="E: no route"):
        debian.extract_old_runsc(str(fake_system / "old" / "runsc"))
    assert installed(fake_system) == []
    assert not (fake_system / "old").exists()


def test_without_a_mirror_of_this_release_there_is_none_to_ask(fake_system: Path) -> None:
    for content in ("", "cdrom://Debian\n"):
        (fake_system / "mirror").write_text(content)
        with pytest.raises(SetupError, match=r"bookworm.*gvisor\.dev"):
            debian.install({"runsc": ""}, upgrade_runsc=False)


def test_lists_that_cannot_be_refreshed_may_still_do(fake_system: Path) -> None:
    (fake_system / "no-network").touch()
    debian.install({"uidmap": ""}, upgrade_runsc=False)
    assert installed(fake_system) == [["uidmap"]]


def test_a_package_that_cannot_be_had_is_one_line(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "ubuntu", "noble")
    (fake_system / "unknown").touch()
    with pytest.raises(SetupError, match=r"E: Unable to locate.*universe.*gvisor\.dev") as refused:
        debian.install({"runsc": ""}, upgrade_runsc=False)
    assert str(refused.value).count("\n") == 0


def test_a_system_without_apt_points_at_gvisors_own_instructions(
    fake_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_system))
    with pytest.raises(SetupError, match=r"runsc.* no apt-get; .*gvisor\.dev"):
        debian.install({"runsc": ""}, upgrade_runsc=False)


def test_without_root_and_sudo_the_hint_is_named(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(fake_system / "bin"))
    with pytest.raises(SetupError, match=r"^uidmap: only root can .* no sudo; .* `\./just setup`"):
        debian.install({"uidmap": ""}, upgrade_runsc=False)
    debian.install({}, upgrade_runsc=True)  # the old one still runs
    assert installed(fake_system) == []


def test_a_sudo_that_cannot_ask_is_quoted(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script(fake_system / "bin/sudo", "echo 'sudo: a password is required' >&2; exit 1")
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(SetupError, match="sudo: a password is required"):
            debian.install({"uidmap": ""}, upgrade_runsc=False)


def test_only_what_needs_root_is_done_with_sudo(fake_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script(fake_system / "bin/sudo", f'echo "$*" >>{fake_system}/sudone; [ "$1" = -n ] || exec env "$@"')
    debian.install({"uidmap": "", "runsc": ""}, upgrade_runsc=False)
    asked, *did = (fake_system / "sudone").read_text().splitlines()
    assert asked == "-n true"
    assert [line.split()[:2] for line in did] == [["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]] * 2
    assert ["update" in line for line in did] == [True, False]
    assert len(installed(fake_system)) == 1


@pytest.mark.parametrize(("removed", "goes_on"), [("busybox", True), ("cryptsetup-initramfs", False)])
def test_nothing_is_removed_but_the_busybox_that_is_replaced(
    fake_system: Path, removed: str, goes_on: bool
) -> None:
    (fake_system / "removes").write_text(f"{removed}\n")
    if goes_on:
        debian.install({"busybox-static": ""}, upgrade_runsc=False)
    else:
        with pytest.raises(SetupError, match="would remove cryptsetup-initramfs"):
            debian.install({"busybox-static": ""}, upgrade_runsc=False)
    assert len(installed(fake_system)) == goes_on


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other owners")
def test_what_root_makes_in_anothers_checkout_is_that_owners(tmp_path: Path, static: str) -> None:
    os.chown(tmp_path, 12345, 12346)
    assert make_rootfs(str(tmp_path / "rootfs"), static)
    made = [tmp_path / "rootfs", *(tmp_path / "rootfs").rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(12345, 12346)}
    assert (tmp_path / "rootfs/bin/sh").is_symlink()
    assert Path(static).stat().st_uid == 0


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
-c* | -Ic*) [ ! -e {tmp_path}/too-old ] ;;
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other owners")
def test_after_sudo_the_owner_of_the_checkout_goes_on_without_it(checkout: Path) -> None:
    (checkout / "did").touch()
    for path in (checkout, *checkout.rglob("*")):
        os.lchown(path, 12345, 12345)
    shim(checkout).communicate()
    assert (checkout / ".venv").exists()
    assert {path.lstat().st_uid for path in (checkout, *checkout.rglob("*"))} == {12345}


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
    put_program(bundle / "rootfs" / "bin" / "true")
    process = {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}}
    config = {"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs", "readonly": True}}
    (bundle / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-v", "-m", "engine", "run", bundle, "--dry-run"],
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
