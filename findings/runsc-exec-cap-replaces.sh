#!/bin/sh
# runsc of 2024-07-29 (Debian 13, 0.0~20240729.0-4+b7): `exec --cap X` replaces the capabilities of the new process by
# X alone. runc adds X to those of the container, and its help says "add a capability to the bounding set".
# Seen: the container has CAP_CHOWN and CAP_KILL (21 in hexadecimal); `exec --cap CAP_NET_BIND_SERVICE` has 400, not 421.
# Run as root.
set -eu
tmp=$(mktemp -d)
r() { "$tmp/root/usr/bin/runsc" --root "$tmp/state" --network none --ignore-cgroups "$@"; }
trap 'r kill box KILL >/dev/null 2>\&1 || :; sleep 1; r delete --force box >/dev/null 2>\&1 || :; rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get -qq -o APT::Sandbox::User=root download "runsc=0.0~20240729.0-4+b7" busybox-static
for package in *.deb; do dpkg-deb -x "$package" root; done
mkdir -p bundle/rootfs/bin
cp "$(find root -path "*bin/busybox" -type f | head -n 1)" bundle/rootfs/bin/busybox
for name in sh sleep cat grep; do ln -s busybox "bundle/rootfs/bin/$name"; done
cat >bundle/config.json <<EOF
{"ociVersion": "1.0.2",
 "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "100"], "cwd": "/",
  "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"],
                   "permitted": ["CAP_CHOWN", "CAP_KILL"]}},
 "root": {"path": "rootfs", "readonly": true},
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}
EOF
r --version | head -n 1
r run --detach --bundle bundle box </dev/null >log 2>&1 || { cat log >&2; exit 1; }


plain=$(r exec box /bin/grep CapEff /proc/self/status)
added=$(r exec --cap CAP_NET_BIND_SERVICE box /bin/grep CapEff /proc/self/status)
echo "exec: $plain"
echo "exec --cap CAP_NET_BIND_SERVICE: $added"
case $plain in *0000000000000021) ;; *) echo "changed: the container's own capabilities differ" >&2; exit 1 ;; esac
case $added in *0000000000000400) ;; *) echo "changed: --cap no longer replaces the capabilities" >&2; exit 1 ;; esac
