#!/bin/sh
# transitions 0.9.3: `may_<trigger>()`, which asks whether a trigger would do something, runs the machine's
# `prepare_event` callbacks once for each transition that it looks at, and never `finalize_event`. A call of the trigger
# itself runs each exactly once. A callback that counts, locks or opens something is unbalanced after a `may_` call.
# Seen: with three transitions, may_go() runs prepare_event 3 times and finalize_event 0 times; go() 1 and 1.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check transitions==0.9.3 six==1.17.0
"$tmp/venv/bin/python" - <<'END'
from collections import Counter

from transitions import Machine, __version__


class Model:
    pass


calls: Counter[str] = Counter()
model = Model()
Machine(
    model,
    states=["a", "b", "c"],
    initial="a",
    prepare_event=lambda: calls.update(["prepare_event"]),
    finalize_event=lambda: calls.update(["finalize_event"]),
    transitions=[
        {"trigger": "go", "source": "a", "dest": "b", "conditions": lambda: False},
        {"trigger": "go", "source": "a", "dest": "b", "conditions": lambda: False},
        {"trigger": "go", "source": "a", "dest": "c"},
    ],
)
print("transitions", __version__)
assert model.may_go()
asked = dict(calls)
calls.clear()
assert model.go()
print("may_go():", asked)
print("go():", dict(calls))
assert asked == {"prepare_event": 3}, "changed: may_ no longer runs prepare_event for each transition"
assert calls == {"prepare_event": 1, "finalize_event": 1}
END
