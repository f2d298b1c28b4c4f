"""Constants: arrays that never change, so that work on them is done once.

Knows of which arrays that was promised (`constant`), which are views of them, and which nobody can
write to any more. Refuses to know what
the compiler does with it (`transforms.ahead`).
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, Final, TypeVar

import numpy as np

from tilewright import trees
from tilewright.errors import NotConstant
from tilewright.graph import Value

T = TypeVar("T")

_promised: Final[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
"""The arrays that `constant` made, by identity, as long as somebody holds them."""


def constant(tree: T) -> T:
    """Copies of the arrays of a tree (weights, tables) that can't be written to.

    What a compiled function computes from constants it captures is computed once and not at every
    call: products and convolutions find their weights packed in the order they read them, scales
    are folded, and whatever depends on nothing else is kept. Views of a constant are constants.
    Kept results and packed copies take memory, of about the constants' size, as long as the
    function lives.

        params = tw.constant(params)
        predict = tw.compile(lambda x: model(params, x))

    `tree` is any tree of arrays and numbers; the result has the same structure, shapes and dtypes.

    **Raises:** `NotConstant` if a leaf is traced: its elements are not known.
    """
    leaves, structure = trees.flatten(tree)
    found: T = trees.unflatten(structure, [_constant(x) for x in leaves])
    return found


def _constant(x: Any) -> Any:
    if isinstance(x, Value):
        raise NotConstant(repr(x))
    if not hasattr(x, "__array__") or is_constant(x) or np.ndim(x) == 0:
        return x  # numbers never change
    a = np.array(x, order="C")
    a.flags.writeable = False
    _promised[id(a)] = a
    return a


def is_constant(a: Any) -> bool:
    """Whether an array, or the one it is a view of, was made by `constant`."""
    while type(a) is np.ndarray and not a.flags.writeable:
        if _promised.get(id(a)) is a:
            return True
        a = a.base
    return False


def is_last(a: Any, references: int) -> bool:
    """Whether nobody else can write to an array that the caller holds so many references to, its
    own argument included: it and what it is a view of are referred to by nobody else. Where
    references are not counted nobody can tell, and the answer is no."""
    if type(a) is not np.ndarray or sys.implementation.name != "cpython":
        return False
    if sys.getrefcount(a) > references + 1:  # and getrefcount's argument
        return False
    while a.base is not None:
        a = a.base
        if type(a) is not np.ndarray or sys.getrefcount(a) > 3:  # the view's, ours, the argument's
            return False
    return bool(a.flags.owndata)
