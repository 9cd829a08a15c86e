#!/bin/sh
# Ours, with the network that a bare runsc has by default: `auto` refuses a bundle that shares the host's.
exec "$(dirname "$(readlink -f "$0")")/../../engine-oci" --network sandbox "$@"
