#!/bin/sh
# runsc of 2022-12-19 (Debian 12, 0.0~20221219.0-2+b3): started by root without --rootless, its sandbox opens the directory
# that TMPDIR names (`--setup-root`: the place for its empty root) after it has become nobody. Where only root can reach
# that directory, since one above it has mode 0700, no container starts, and the message does not say
# why. The runsc of 2024 starts.
# Seen: TMPDIR=/tmp: the container's exit code, 42. TMPDIR=a directory in one of mode 0700: 128, "cannot read client sync file:
# waiting for sandbox to start: EOF".
# Run as root on Debian 12.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get -qq -o APT::Sandbox::User=root download "runsc=0.0~20221219.0-2+b3" busybox-static
for package in *.deb; do dpkg-deb -x "$package" root; done
mkdir -p bundle/rootfs/bin private/tmp
chmod 755 "$tmp"
chmod 700 private
cp "$(find root -path "*bin/busybox" -type f | head -n 1)" bundle/rootfs/bin/busybox
ln -s busybox bundle/rootfs/bin/sh
cat >bundle/config.json <<EOF
{"ociVersion": "1.0.2",
 "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", "exit 42"], "cwd": "/"},
 "root": {"path": "rootfs", "readonly": true},
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}
EOF
run() {
    code=0
    TMPDIR=$1 root/usr/bin/runsc --root "$tmp/state" --network none --platform ptrace --ignore-cgroups \
        run --bundle bundle "box-$2" </dev/null >"log-$2" 2>&1 || code=$?
    echo "TMPDIR=$1: $code $(tail -n 1 "log-$2")"
}
root/usr/bin/runsc --version | head -n 1
run /tmp public
[ "$code" = 42 ] || { echo "changed: it does not run with TMPDIR=/tmp" >&2; exit 1; }
run "$tmp/private/tmp" private
[ "$code" = 128 ] || { echo "changed: a private TMPDIR no longer matters" >&2; exit 1; }
