#!/bin/sh
# Stands before RUNTIME in crun's tests: takes out the options that only crun has and spells the short ones out, in
# the same way for every runtime. What is left is what runc, runsc and ours all take.
set -eu
skip=''
rest=$#
while [ "$rest" -gt 0 ]; do
    rest=$((rest - 1))
    word=$1
    shift
    if [ -n "$skip" ]; then
        skip=''
        continue
    fi
    case $word in
        --cgroup-manager | --config) skip=1; continue ;;
        -f) word=--force ;;
    esac
    set -- "$@" "$word"
done
exec "$RUNTIME" "$@"
