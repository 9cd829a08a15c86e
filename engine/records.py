"""`dataclass(frozen=True, slots=True)` for what a run establishes, at a twentieth of the cost of defining one.

The notable thing: the standard library's writes each method as text and compiles it when the module is imported, half
a millisecond a class, and a run defines twenty. This one has the methods ready. To a type checker it is the standard
library's own, and `dataclasses.fields`, `asdict` and `replace` take what it makes. `TYPE_CHECKING` is that of `typing`
without the import, which costs a run four milliseconds: what is in an annotation alone is imported beneath it.
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "dataclass", "replace"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, replace
else:
    _set = object.__setattr__

    def dataclass(*, frozen, slots, eq=True):
        """A decorator that makes a class of annotated fields a frozen record with slots; both must be asked for."""
        if not (frozen and slots):
            raise TypeError("a record is frozen and has slots; use dataclasses.dataclass for anything else")

        def make(cls):
            own = dict(cls.__dict__)
            names = tuple(own.get("__annotations__", ()))
            defaults = {name: own.pop(name) for name in names if name in own}
            for name in ("__dict__", "__weakref__"):
                own.pop(name, None)
            own.update(
                __slots__=names,
                __match_args__=names,
                __dataclass_fields__=_Fields(defaults),
                __qualname__=cls.__qualname__,
                __init__=_initializer(names, defaults),
                __setattr__=_refuse_to_set,
                __delattr__=_refuse_to_delete,
                __getstate__=_state,
                __setstate__=_restore,
                __repr__=_repr,
            )
            if eq:
                own.update(__eq__=_eq, __hash__=_hash)
            return type(cls)(cls.__name__, cls.__bases__, own)

        return make

    def replace(record, /, **changes):
        """A record like this one but for the fields in `changes`."""
        return type(record)(**(dict(zip(record.__slots__, _values(record), strict=True)) | changes))

    class _Fields:
        """What the standard library keeps of a dataclass, made when it first asks."""

        def __init__(self, defaults):
            self._defaults = defaults

        def __get__(self, _instance, cls):
            import dataclasses

            fields = [
                (name, kind, dataclasses.field(default=self._defaults.get(name, dataclasses.MISSING)))
                for name, kind in cls.__annotations__.items()
            ]
            made = dataclasses.make_dataclass(cls.__name__, fields).__dataclass_fields__
            cls.__dataclass_fields__ = made
            return made

    def _initializer(names, defaults):
        known = frozenset(names)

        def __init__(self, *args, **fields):  # noqa: N807
            if len(args) > len(names):
                raise TypeError(f"{type(self).__name__} takes {len(names)} fields, not {len(args)}")
            given = dict(zip(names, args, strict=False))
            if twice := given.keys() & fields.keys():
                raise TypeError(f"{type(self).__name__} was given {sorted(twice)[0]!r} twice")
            if foreign := fields.keys() - known:
                raise TypeError(f"{type(self).__name__} has no field {sorted(foreign)[0]!r}")
            values = {**defaults, **given, **fields}
            for name in names:
                if name not in values:
                    raise TypeError(f"{type(self).__name__} lacks {name!r}")
                _set(self, name, values[name])
            if after := getattr(self, "__post_init__", None):
                after()

        return __init__

    def _values(record):
        return tuple(getattr(record, name) for name in record.__slots__)

    def _eq(self, other):
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(_values(self))

    def _repr(self):
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__qualname__}({shown})"

    def _refuse_to_set(_self, name, _value):
        raise _frozen(f"cannot assign to field {name!r}")

    def _refuse_to_delete(_self, name):
        raise _frozen(f"cannot delete field {name!r}")

    def _frozen(text):
        from dataclasses import FrozenInstanceError

        return FrozenInstanceError(text)

    def _state(self):
        return list(_values(self))

    def _restore(self, state):
        for name, value in zip(self.__slots__, state, strict=True):
            _set(self, name, value)
