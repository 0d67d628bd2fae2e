"""Annotations checked at every call, by beartype, of all functions of a package, also those within functions.

jaxtyping's import hook puts a decorator on every function. Its own writes, compiles and binds a signature anew for each
function that another makes, which at every trace took a third of the suite's time; this one does so once for a `def`.
"""

import functools
import types

import beartype
import jaxtyping

CHECK = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int may stand for a float
enabled = [True]
_known: dict = {}  # by identity of the code, which is kept alive


def install(package):
    """Before anything imports the package."""
    jaxtyping.jaxtyped = lambda *, typechecker: checked
    jaxtyping.install_import_hook(package, "tests.typed.checked")


def checked(fn):
    """The function, or one that checks its annotations first while `enabled`."""
    if isinstance(fn, type) or not fn.__annotations__:
        return fn
    code, annotations, checks = _known.get(id(fn.__code__), (None, None, None))
    if code is None or annotations != fn.__annotations__:
        checks = CHECK(fn)
        _known[id(fn.__code__)] = fn.__code__, fn.__annotations__, None if checks is fn else checks
    elif checks is not None:
        checks = _of(checks, fn)
    if checks in (None, fn):  # nothing that can be checked
        return fn

    @functools.wraps(fn)
    def either(*args, **kwargs):
        return (checks if enabled[0] else fn)(*args, **kwargs)

    return either


def _of(checks, fn):
    """Beartype's function for another of the same `def`."""
    defaults = checks.__kwdefaults__
    if "__beartype_func" not in (defaults or {}):
        return CHECK(fn)
    copy = types.FunctionType(checks.__code__, checks.__globals__, fn.__name__, checks.__defaults__, checks.__closure__)
    copy.__kwdefaults__ = defaults | {"__beartype_func": fn}
    return copy
