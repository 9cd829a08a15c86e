#!/bin/sh
# runsc of 2024-07-29 (Debian 13, 0.0~20240729.0-4+b7): `exec --detach` without `--pid-file` adds an argument of its own
# to the command that it starts, so that programs which read their arguments fail. With `--pid-file` it does not.
# Seen: `exec --detach box /bin/sleep 1` ends with 128 and the program inside is given `--pid-file=…/pid` at its end.
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


code=0; r exec --detach box /bin/sleep 1 >detached 2>&1 || code=$?
with=0; r exec --detach --pid-file "$tmp/pid" box /bin/sleep 1 >/dev/null 2>&1 || with=$?
echo "exec --detach: exit code $code; with --pid-file: $with"
[ "$with" = 0 ] || { echo "changed: it fails with --pid-file as well" >&2; exit 1; }
[ "$code" = 128 ] || { echo "changed: exec --detach without --pid-file ended with $code" >&2; exit 1; }
