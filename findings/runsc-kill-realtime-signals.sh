#!/bin/sh
# runsc of 2024-07-29 (Debian 13, 0.0~20240729.0-4+b7): `kill ID SIGNAL` takes the signals 1 to 31 alone. Real-time
# signals, signal(7), are refused, though images name them: those of systemd have STOPSIGNAL SIGRTMIN+3, which is 37.
# Seen: `kill box 37` and `kill box RTMIN+3` end with 128 and "unknown signal"; `kill box 10` ends with 0.
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


for signal in 37 RTMIN+3; do
    code=0; said=$(r kill box "$signal" 2>&1) || code=$?
    echo "kill box $signal: exit code $code: $said"
    [ "$code" = 128 ] || { echo "changed: signal $signal is taken" >&2; exit 1; }
done
r kill box 10
