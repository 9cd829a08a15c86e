"""The images that Kubernetes' own tests ask for by name, made of Debian's static busybox and bash.

The notable thing: each program is a hard link, so that a test can mask one without the others, and `sh` is bash, as
Debian's busybox runs its own `ls` without looking at /bin/ls.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.survey.busybox import static_busybox
from tests.kubernetes import registry
from tools import SetupError

#: What holds a pod's namespaces. `.invalid` is a name that no registry has (RFC 2606).
PAUSE = "registry.invalid/held:latest"
#: What critest, and the pods for the kubelet, run their commands in.
TOOLS = "registry.invalid/busybox:1.29-2"
BASH = Path("/bin/bash-static")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_SERVER = """#!/bin/sh
trap 'kill $!; exit 0' TERM QUIT
echo "$0 serves"
mkdir -p /run && echo $$ >/run/nginx.pid
httpd -f -p {port} -h /www &
while :; do wait; done
"""
#: In Debian's busybox these are missing.
_SCRIPTS = {
    "pgrep": '#!/bin/sh\nfor p in /proc/[0-9]*; do read -r n <$p/comm && [[ $n = *"$1"* ]] && echo ${p#/proc/}; done\n',
    "ipcs": "#!/bin/sh\ncat /proc/sysvipc/shm 2>/dev/null || echo none\n",
    "nginx": _SERVER.format(port=80),
    "httpd-server": _SERVER.format(port=80),
    "hostnet-nginx": _SERVER.format(port=12003),
}
_PASSWD = """root:x:0:0:root:/:/bin/sh
www-data:x:33:33:www-data:/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
default-user:x:1000:1000::/:/bin/sh
"""
_GROUP = """root:x:0:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nogroup:x:65534:
"""
#: A set-user-ID shell that says whose it is: what `allowPrivilegeEscalation: false` is for.
_TELL = ("/bin/as-root", "-p", "-c", "echo Effective uid: $EUID")


def _layer() -> bytes:
    """The layer that every image has."""
    busybox = static_busybox()
    if busybox is None or not BASH.exists():
        raise SetupError("no static busybox and bash; ./just critest installs busybox-static and bash-static")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:

        def add(
            name: str, data: bytes = b"", mode: int = 0o755, kind: bytes = tarfile.REGTYPE, to: str = ""
        ) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.type, entry.linkname = len(data), mode, kind, to
            tar.addfile(entry, io.BytesIO(data))

        for directory in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var", "www"):
            add(directory, mode=0o1777 if directory == "tmp" else 0o755, kind=tarfile.DIRTYPE)
        add("var/run", kind=tarfile.SYMTYPE, to="/run")
        add("bin/busybox", Path(busybox).read_bytes())
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            if applet not in {"busybox", "sh"}:
                add(f"bin/{applet}", kind=tarfile.LNKTYPE, to="bin/busybox")
        add("bin/sh", BASH.read_bytes())
        add("bin/as-root", BASH.read_bytes(), mode=0o4755)
        for name, script in _SCRIPTS.items():
            add(f"bin/{name}", script.encode())
        for name, text in {"etc/passwd": _PASSWD, "etc/group": _GROUP, "www/index.html": "served\n"}.items():
            add(name, text.encode(), mode=0o644)
    return content.getvalue()


def _marked(text: str) -> bytes:
    """A small layer by which one image differs from the next."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo("etc/image")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    return content.getvalue()


def _images() -> Mapping[str, tuple[Sequence[str], str]]:
    """The command and the user of each image, by its name."""
    shell = ("/bin/sh",)
    machine = _ARCHITECTURES[platform.machine()]
    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:500", "username-group": "www-data:100"}
    plain = [
        *("test-image-latest:latest", "test-image-tag:test", "test-image-tag:all", "pause:3.9"),
        *(f"test-image-{number}:latest" for number in (1, 2, 3)),
    ]
    return {
        "held:latest": (("/bin/tail", "-f", "/dev/null"), ""),
        "busybox:1.29-2": (shell, ""),
        "nginx:1.14-2": (("/bin/nginx", "master process"), ""),
        "httpd:2.4.39-4": (("/bin/httpd-server",), ""),
        f"hostnet-nginx-{machine}:latest": (("/bin/hostnet-nginx",), ""),
        "nonewprivs:1.3": (_TELL, ""),
        "test-image-predefined-group:latest": (shell, "1000"),
        **{f"test-image-user-{name}:latest": (shell, user) for name, user in users.items()},
        **dict.fromkeys(plain, (shell, "")),
        **{f"test-image-tags:{number}": (shell, "tags") for number in (1, 2, 3)},
    }


def write(directory: Path) -> None:
    """Put every image where the registry serves them from. Raises `SetupError`."""
    base = _layer()
    for name, (command, user) in _images().items():
        mark = _marked("test-image-tags" if user == "tags" else name)
        config = {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": [*command], "User": "" if user == "tags" else user},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(each)}" for each in (base, mark)]},
        }
        blobs: dict[str, bytes] = {}

        def blob(kind: str, content: bytes, blobs: dict[str, bytes] = blobs) -> dict[str, object]:
            digest = _digest(content)
            blobs[digest] = content
            media = f"application/vnd.oci.image.{kind}"
            return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}

        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": blob("config.v1+json", json.dumps(config).encode()),
                "layers": [blob("layer.v1.tar", base), blob("layer.v1.tar", mark)],
            }
        ).encode()
        blobs[_digest(manifest)] = manifest
        registry.keep(directory, name, _digest(manifest), blobs)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
