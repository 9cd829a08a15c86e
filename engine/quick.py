"""Imports `argparse` and `transitions` without what a run never asks of them, which costs it a sixth of runsc's start.

`argparse` takes `gettext` to translate its messages, which looks for catalogues of messages that nobody ships.
`transitions` takes `inspect` for one test of a model that has callbacks of its own, `logging` for debug messages and
`six` for the name of `str`. While one is imported stand-ins lie in these places; each makes way for the real module as
soon as something else is asked of it. Only a process of the command line does this: whoever imports the engine as a
library gets both as they come.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def import_argparse() -> None:
    """Import `argparse`, quickly where neither it nor `gettext` was imported before."""
    _import("argparse", _Gettext("gettext"))


def import_transitions() -> None:
    """Import `transitions`, quickly where neither it nor what it takes was imported before."""
    _import("transitions", _Later("inspect"), _Logging("logging"), _Six("six"))


class _Later(ModuleType):
    """Stands for a module until it is asked for something."""

    def give_way(self) -> None:
        """Let the next import find the real module."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from importlib import import_module

        self.give_way()
        return getattr(import_module(self.__name__), name)


def _import(name: str, *stand_ins: _Later) -> None:
    if name in sys.modules:
        return
    laid = [module for module in stand_ins if module.__name__ not in sys.modules]
    sys.modules.update({module.__name__: module for module in laid})
    try:
        __import__(name)
    finally:
        for module in laid:
            module.give_way()


class _Gettext(_Later):
    """Messages as they are."""

    @staticmethod
    def gettext(message: str) -> str:
        """The message."""
        return message

    @staticmethod
    def ngettext(one: str, many: str, number: int) -> str:
        """The message for this number."""
        return one if number == 1 else many


class _Logging(_Later):
    """What `logging` does for a library while nobody has configured it: nothing, as its logger has a NullHandler."""

    @staticmethod
    def getLogger(_name: str) -> _Silent:  # noqa: N802 (logging's)
        """A logger that nobody listens to."""
        return _Silent()

    @staticmethod
    def NullHandler() -> None:  # noqa: N802 (logging's)
        """What keeps a library's logger silent."""


class _Silent:
    def _say_nothing(self, *_: object, **__: object) -> None: ...

    addHandler = debug = info = warning = error = exception = critical = _say_nothing  # noqa: N815 (logging's)


class _Six(_Later):
    string_types = (str,)
