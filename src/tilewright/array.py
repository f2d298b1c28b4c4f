"""Array, the handle that users' functions see while they are traced.

Knows NumPy's operators, methods and protocols, which arrays share memory, and who may write to
which. Refuses to know promotion (`promotion.py`), indexing (`subscript.py`) and single NumPy
functions (`numpy/`): it turns calls into nodes through them.

Nodes never change; a handle does. `x[i] = v` and `x += v` put another node into the handle, so the
user's variable keeps its meaning. A handle made by slicing, `reshape`, `.T`, ... is a view: it
remembers its base handle and the path of view ops from it, follows the path again when the base was
written to, and writes to itself by writing to the base.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from threading import local
from typing import Any

import numpy as np

from tilewright import dtypes, forks, subscript
from tilewright import promotion as pr
from tilewright.constants import is_constant, is_last
from tilewright.dtypes import DType
from tilewright.errors import (
    ArgumentWrite,
    ArraySubclass,
    CapturedWrite,
    DTypeMismatch,
    DynamicShape,
    EscapedTracer,
    IntegerRange,
    MissingAttribute,
    NotAnArray,
    ShapeMismatch,
    TracedBool,
    TracedConversion,
    TracedNumber,
    Unsized,
    UnsupportedDType,
    UnsupportedFunction,
    UntracedWrite,
    ViewWrite,
)
from tilewright.expr import Extent
from tilewright.graph import Node, Pick, Type, Value
from tilewright.operators import Operators
from tilewright.ops import elementwise as el
from tilewright.ops.cumulative import Cumulative
from tilewright.ops.held import Held
from tilewright.ops.shape import Broadcast, Constant, Reshape, Transpose, fill
from tilewright.selection import At, Selection

Method = Callable[..., Any]


class Scope:
    """One run of a user's function under `trace`; handles belong to the scope they are made in."""

    __slots__ = ("captured", "name", "open", "outer")

    def __init__(self, name: str, outer: Scope | None) -> None:
        self.name, self.outer, self.open = name, outer, True
        self.captured: dict[int, Captured] = {}


class _Current(local):
    scope: Scope | None = None


current = _Current()
"""The innermost scope of this thread."""


class Captured:
    """An ordinary array that traced code reads, held by identity.

    If the array is small and the function writes to it afterwards, what was read before must stay:
    then the node's array is replaced by the copy made when it was read.
    """

    LARGE = 1 << 20
    """Bytes from which no copy is made."""

    __slots__ = ("array", "copy", "held", "node")

    def __init__(self, array: Any) -> None:
        self.array, self.held = array, Held(array, is_constant(array))
        small = array.nbytes < self.LARGE and not self.held.fixed
        self.copy = array.copy() if small else None
        self.node = Constant(self.held).node()

    def settle(self) -> None:
        """The function has returned: the node keeps the elements that were read, and an array that
        was made on the way, which nobody else has, never changes any more."""
        if not self.changed() and not self.held.fixed:
            self.held.fixed = is_last(self.array, 3)  # ours, the node's, and the call's

    def changed(self) -> bool:
        """Whether the array was written to since; if so, the node keeps the old elements."""
        if self.copy is None or self.copy.tobytes() == self.array.tobytes():
            return False
        self.held.array = self.copy
        return True


def _method(name: str) -> Method:
    """The method that is the namespace's function of that name."""

    def method(self: Array, *args: Any, **kwargs: Any) -> Any:
        return getattr(_namespace(), name)(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"`numpy.{name}` of this array."
    return method


class Array(Operators, Value):
    """A traced array: shape and dtype are known, the elements are not.

    It has the operators, methods and protocols of `numpy.ndarray`; a 0-d one is immutable as
    NumPy's scalars are.
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_label",
        "_node",
        "_path",
        "_python",
        "_scope",
        "_seen",
        "_version",
    )
    __array_priority__ = 1000

    def __init__(self, node: Node, *, label: str | None = None, python: type | None = None) -> None:
        """`label`: the argument this is. `python`: type of the Python number this stands for."""
        self._node = node
        self._scope = current.scope
        self._label, self._python = label, python
        self._version = 0
        self._base: Array | None = None
        self._path: subscript.Path = ()
        self._seen = 0

    @property
    def node(self) -> Node:
        """The node this handle stands for now."""
        scope = self._scope
        if scope is not None and not scope.open:
            raise EscapedTracer(repr(self), scope.name)
        base = self._base
        if base is not None and base._version != self._seen:
            self._node = subscript.follow(self._path, base.node)
            self._seen = base._version
        return self._node

    @classmethod
    def wrap(cls, node: Node) -> Any:
        if isinstance(node.type, tuple):
            return tuple(cls(Pick(i).node(node)) for i in range(len(node.type)))
        return cls(node)

    # -- views and writes --

    def sharing(self, base: Array, path: subscript.Path) -> Array:
        """This handle as the view of `base` along `path`."""
        root = base._base
        if root is not None:
            base, path = root, base._path + path
        self._base, self._path, self._seen = base, path, base._version
        return self

    def write(self, node: Node) -> None:
        """Put new elements into the array, as seen by all its views.

        Raises CapturedWrite, ArgumentWrite, ViewWrite.
        """
        if self._scope is not current.scope:
            inside = current.scope.name if current.scope else "this function"
            raise CapturedWrite(repr(self), inside)
        base = self._base
        if base is None:
            if self._label is not None:
                raise ArgumentWrite(repr(self), self._label)
            self._node = node
            self._version += 1
            return
        if not subscript.writable(self._path):
            raise ViewWrite(repr(self), "broadcasting")
        if node is not self.node:
            base.write(subscript.undo(self._path, base.node, node))

    # -- type --

    @property
    def type(self) -> Type:
        return self._node.type  # type: ignore[no-any-return]

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self._node.type.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> DType:
        return self._node.type.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return len(self._node.type.shape)

    @property
    def size(self) -> Extent:
        return self.type.size

    @property
    def python(self) -> builtins.type | None:
        """The type of the Python number this stands for, if it does."""
        return self._python

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> Extent:
        return self.size * self.itemsize

    @property
    def device(self) -> str:
        return "cpu"

    def __len__(self) -> int:
        if not self.ndim:
            raise Unsized(repr(self))
        return self.shape[0]  # type: ignore[return-value]

    def __repr__(self) -> str:
        source = self._node.source
        return f"Array({self._node.type!r}{f', traced at {source}' if source else ''})"

    # -- what derivative and batching rules use --

    def full_like(
        self, value: Any, shape: Sequence[Extent] | None = None, dtype: DType | None = None
    ) -> Array:
        """`value` everywhere, in this array's shape and dtype unless said otherwise."""
        of = Type(dtype or self.dtype, self.shape if shape is None else tuple(shape))
        return Array(fill(value, of).node())

    def zeros_like(self) -> Array:
        return self.full_like(0)

    def broadcast_leading(self, size: Extent) -> Array:
        """Repeat along a new first axis."""
        return Broadcast((size, *self.shape), tuple(range(1, self.ndim + 1)))(self)  # type: ignore[no-any-return]

    @staticmethod
    def where(condition: Array, then: Array, otherwise: Array) -> Array:
        return el.select(condition, then, otherwise)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """Only for names that are not found: NumPy's own say why they are missing."""
        if hasattr(np.ndarray, name) and not name.startswith("__"):
            raise MissingAttribute(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # -- Python values, which a traced array has not --

    def __bool__(self) -> bool:
        raise TracedBool(self)

    def __int__(self) -> int:
        raise TracedNumber(self, "a Python int")

    def __float__(self) -> float:
        raise TracedNumber(self, "a Python float")

    def __complex__(self) -> complex:
        raise TracedNumber(self, "a Python complex")

    def __index__(self) -> int:
        raise TracedNumber(self, "an index, an extent or a count")

    def item(self, *at: int) -> Any:
        raise TracedNumber(self, "a Python number")

    def tolist(self) -> Any:
        raise TracedNumber(self, "a list of Python numbers")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TracedConversion(self)

    def __format__(self, spec: str) -> str:
        if spec:
            raise TracedNumber(
                self, f"text in the format {spec!r}",
                "Return the value and print it outside; a plain {x} shows its type while tracing.",
            )  # fmt: skip
        return repr(self)

    # -- operators --

    def operate(self, ufunc: Any, *operands: Any) -> Any:
        return operate(ufunc, *operands)

    def update(self, ufunc: Any, result: Any) -> Any:
        """What `x += v` leaves in x: itself with the result in it; for a scalar, the result."""
        if not isinstance(result, Array):
            raise NotAnArray(result, f"the operand of an in-place {ufunc.__name__}")
        if self.ndim == 0:
            return result
        self.assign(result, f"in-place {ufunc.__name__}")
        return self

    def assign(self, result: Array, what: str) -> None:
        """Write a result of an operation into this array, as `out=` does: the shapes are equal,
        the dtype is converted within its kind. Raises DTypeMismatch, ShapeMismatch."""
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
            raise DTypeMismatch(
                f"{what}: cannot cast the {result.dtype} result to the array's {self.dtype}",
                f"Make a new array (x = x + y), or convert first: x = x.astype({result.dtype}).",
            )
        if result.shape != self.shape:
            raise ShapeMismatch(
                f"{what}: the result does not fit into the array", result.shape, self.shape
            )
        self.write(pr.cast(result.node, self.dtype))

    # -- indexing --

    def __getitem__(self, key: Any) -> Any:
        node = self.node
        at = subscript.plan(self.shape, key)
        if at.mask is not None:
            return Selection.of(self, at)
        out = Array(subscript.read(node, at))
        return out.sharing(self, at.path) if at.view else out

    def __setitem__(self, key: Any, value: Any) -> None:
        root = self if self._base is None else self._base
        if isinstance(value, Array) and value._base is root:
            at = subscript.plan(self.shape, key)
            if at.view and value._path == (*self._path, *at.path):
                return  # the end of `x[i] += v`: the view has written itself
        self.scatter(key, value, "set")

    def scatter(self, key: Any, value: Any, kind: str) -> None:
        """`x[key] = value`, or `kind` (add mul min max) of the elements there and the value."""
        node = self.node
        at = subscript.plan(self.shape, key)
        whole = isinstance(value, Selection)
        new = value.assigned_to(at) if whole else assigned(value, self.dtype)
        self.write(subscript.write(node, at, new, kind, whole))

    def __iter__(self) -> Iterator[Any]:
        if not self.ndim:
            raise Unsized(repr(self))
        return (self[i] for i in range(len(self)))

    @property
    def at(self) -> At:
        """`x.at[key].set(v)` and its kin: a new array, x stays."""
        return At(self)

    # -- NumPy's protocols --

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return implementation(function)(*args, **kwargs)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return _namespace()

    # -- methods and attributes that are functions of the namespace --

    @property
    def T(self) -> Array:
        return self.transpose()

    @property
    def mT(self) -> Array:
        return _namespace().swapaxes(self, -1, -2)  # type: ignore[no-any-return]

    @property
    def real(self) -> Array:
        return _namespace().real(self)  # type: ignore[no-any-return]

    @property
    def imag(self) -> Array:
        return _namespace().imag(self)  # type: ignore[no-any-return]

    @property
    def flat(self) -> Array:
        return self.reshape(-1)

    def astype(self, dtype: Any, *, copy: bool = True, **options: Any) -> Array:
        """A new array of the same values in another type."""
        return Array(pr.cast(self.node, np.dtype(dtype)))

    def copy(self, order: str = "C") -> Array:
        """An array of its own with the same elements: it may be written to."""
        return Array(self.node, python=self._python)

    def __copy__(self) -> Array:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        return self.copy()

    def flatten(self, order: str = "C") -> Array:
        """A copy as one axis."""
        return _namespace().ravel(self, order).copy()  # type: ignore[no-any-return]

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Array:
        to = shape[0] if len(shape) == 1 else shape
        return _namespace().reshape(self, to, order=order)  # type: ignore[no-any-return]

    def transpose(self, *axes: Any) -> Array:
        order = axes[0] if len(axes) == 1 else axes or None
        if order is None:
            order = tuple(reversed(range(self.ndim)))
        if sorted(d % max(self.ndim, 1) for d in order) != list(range(self.ndim)):
            raise ShapeMismatch(
                f"transpose: {tuple(order)} is no order of the {self.ndim} axes", self.shape
            )
        op = Transpose(tuple(d % self.ndim for d in order))
        return Array(op.node(self.node)).sharing(self, (op,))

    all = _method("all")
    any = _method("any")
    argmax = _method("argmax")
    argmin = _method("argmin")
    argsort = _method("argsort")
    clip = _method("clip")
    conj = _method("conj")
    conjugate = _method("conjugate")
    cumprod = _method("cumprod")
    cumsum = _method("cumsum")
    diagonal = _method("diagonal")
    dot = _method("dot")
    max = _method("max")
    mean = _method("mean")
    min = _method("min")
    nonzero = _method("nonzero")
    prod = _method("prod")
    ptp = _method("ptp")
    ravel = _method("ravel")
    repeat = _method("repeat")
    round = _method("round")
    searchsorted = _method("searchsorted")
    squeeze = _method("squeeze")
    std = _method("std")
    sum = _method("sum")
    swapaxes = _method("swapaxes")
    take = _method("take")
    trace = _method("trace")
    var = _method("var")

    def sort(self, axis: int = -1, kind: Any = None, order: Any = None) -> None:
        """Sort in place; `np.sort` gives a sorted copy."""
        self.write(_namespace().sort(self, axis=axis).node)

    def fill(self, value: Any) -> None:
        """Write one number everywhere."""
        self[...] = value

    def __round__(self, digits: int = 0) -> Any:
        return _namespace().round(self, digits)

    def block_until_ready(self) -> Array:
        """For code written for JAX: results of compiled functions are always ready."""
        return self


# -- operands ----------------------------------------------------------------------------------


_OPERANDS = (Array, int, float, complex, np.ndarray, np.generic, list, tuple)


def is_operand(x: Any) -> bool:
    """Whether an operator of Array takes `x`; other classes get their chance to."""
    if isinstance(x, _OPERANDS):
        return True
    if isinstance(x, str | bytes) or x is None:
        raise NotAnArray(x)
    return hasattr(x, "__array__") and not isinstance(x, Selection)


def operand(x: Any) -> pr.Operand:
    """`x` as promotion takes it: Python numbers, and traced ones, stay weak."""
    if type(x) in pr.PYTHON:
        return x  # type: ignore[no-any-return]
    if isinstance(x, Array) and x._python is not None:
        return pr.Weak(x.node, x._python)
    return node_of(x)


def node_of(x: Any, label: str = "") -> Node:
    """The node of anything array-like; ordinary arrays are held by identity.

    Raises NotAnArray, UnsupportedDType, IntegerRange, DynamicShape; `label` names x in messages.
    """
    if isinstance(x, Value):
        return x.node
    if isinstance(x, Selection):
        raise DynamicShape(repr(x))
    if isinstance(x, list | tuple) and _holds_traced(x):
        return _namespace().array(x).node  # type: ignore[no-any-return]
    a = concrete(x, label)
    if a.ndim == 0:
        return fill(a, Type(a.dtype, ())).node()
    scope = current.scope
    if scope is None:
        return Constant(Held(a, is_constant(a))).node()
    found = scope.captured.get(id(a))
    if found is None or found.array is not a or found.changed():
        found = scope.captured[id(a)] = Captured(a)
    return found.node


def _holds_traced(x: Sequence[Any]) -> bool:
    return any(
        isinstance(e, Array) or (isinstance(e, list | tuple) and _holds_traced(e)) for e in x
    )


def concrete(x: Any, label: str = "") -> Any:
    """An ordinary array of anything that is one, or a number: native byte order, known dtype."""
    if isinstance(x, str | bytes) or x is None:
        raise NotAnArray(x, label)
    if isinstance(x, np.ndarray) and type(x) not in (np.ndarray, np.memmap, np.recarray):
        raise ArraySubclass(x, label)
    try:
        a = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise NotAnArray(x, label) from error
    if a.dtype in dtypes.SHORT:
        return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))
    if type(x) is int:
        raise IntegerRange(x, dtypes.int64)
    native = a.dtype.newbyteorder("=")
    if native in dtypes.SHORT:
        return a.astype(native)
    if a.dtype == object and not isinstance(x, np.ndarray | list | tuple):
        raise NotAnArray(x, label)
    raise UnsupportedDType(a.dtype, label)


def assigned(value: Any, dtype: DType) -> Node:
    """A value assigned into an array of `dtype`: Python numbers adopt it, arrays are cast."""
    if type(value) is complex and not dtypes.is_complex(dtype):
        raise DTypeMismatch(
            f"cannot assign a complex number to an array of {dtype}", "Assign its .real part."
        )
    return pr.number(value, dtype) if type(value) in pr.PYTHON else node_of(value)


def asarray(x: Any) -> Array:
    """A traced array of anything array-like; captured arrays are held by identity."""
    return x if isinstance(x, Array) else Array(node_of(x))


def astype(x: Array, dtype: DType) -> Array:
    """`x` converted to `dtype`; itself if it has it."""
    return x if x.dtype == dtype else Array(pr.cast(x.node, dtype))


def broadcast_to(x: Array, shape: Sequence[Extent]) -> Array:
    """NumPy's broadcasting of one array; itself if it has that shape."""
    return x if x.shape == tuple(shape) else Array(pr.broadcast_to(x.node, shape))


# -- ufuncs ------------------------------------------------------------------------------------


_EQUALITIES = frozenset((np.equal, np.not_equal))


def operate(ufunc: Any, *args: Any) -> Any:
    """An operator: as the ufunc, but Python numbers among themselves stay Python's."""
    if ufunc in _EQUALITIES and any(x is None or isinstance(x, str) for x in args):
        return NotImplemented
    if not all(map(is_operand, args)):
        return NotImplemented
    if ufunc is np.matmul:
        return _namespace().matmul(*args)
    if ufunc is np.power:
        ufunc, args = _as_numpys_power(*args)
    operands = [operand(x) for x in args]
    if any(isinstance(x, Node) for x in operands):
        return Array(pr.apply(ufunc, *operands))
    if ufunc not in pr.PYTHON_LOGIC:
        operands = [pr.as_python(x) for x in operands]
    node = pr.apply(ufunc, *operands)
    return Array(node, python=type(node.type.dtype.type(0).item()))


def _as_numpys_power(base: Any, exponent: Any) -> tuple[Any, tuple[Any, ...]]:
    """What NumPy's own `**` computes: squares and square roots by their own functions."""
    if isinstance(base, Array) and base.python is None:
        if type(exponent) is int and exponent == 2:
            return np.square, (base,)
        if type(exponent) is float and exponent == 0.5 and dtypes.is_inexact(base.dtype):
            return np.sqrt, (base,)
    return np.power, (base, exponent)


def call_ufunc(ufunc: Any, method: str, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """`ufunc.method(*inputs, **options)` with traced arrays among the inputs or outputs."""
    if any(isinstance(x, Selection) for x in inputs):
        chosen = next(x for x in inputs if isinstance(x, Selection))
        return chosen.__array_ufunc__(ufunc, method, *inputs, **options)
    out = options.pop("out", None)
    where = options.pop("where", True)
    if method == "__call__":
        result = _call(ufunc, inputs, options)
    elif method in _UFUNC_METHODS:
        if where is not True:
            options["where"], where = where, True
        result = _UFUNC_METHODS[method](ufunc, *inputs, **options)
    else:
        raise UnsupportedFunction(f"np.{ufunc.__name__}.{method}", "np.add.reduce or a tw.scan")
    if out is None or all(o is None for o in out):
        if where is not True:
            raise UnsupportedFunction(
                f"np.{ufunc.__name__} with where= and no out=, which leaves elements undefined",
                "np.where(mask, result, other)",
            )
        return result
    return into(out, result, ufunc.__name__, where)


def _call(ufunc: Any, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    dtype = options.pop("dtype", None)
    if options.keys() - {"casting", "order", "subok"}:
        raise UnsupportedFunction(f"np.{ufunc.__name__} with {', '.join(options)}")
    if ufunc not in pr.ROWS:
        if dtype is not None and ufunc.signature is not None:  # matmul and its like compute in it
            inputs = [asarray(x).astype(dtype) for x in inputs]
        result = implementation(ufunc)(*inputs)
        return result if dtype is None else result.astype(dtype)
    dtype = None if dtype is None else np.dtype(dtype)
    return Array(pr.apply(ufunc, *map(operand, inputs), dtype=dtype))


def into(out: Any, result: Any, name: str, where: Any = True) -> Any:
    """Write what the function `name` gave into the arrays given as `out=`; these."""
    outs = out if isinstance(out, tuple) else (out,)
    results = result if isinstance(result, tuple) else (result,)
    for target, value in zip(outs, results, strict=True):
        if not isinstance(target, Array):
            raise UntracedWrite(repr(value))
        if where is not True:
            shape = target.shape
            inside = pr.broadcast_to(pr.cast(node_of(where), dtypes.bool_), shape)
            full = pr.broadcast_to(pr.cast(value.node, target.dtype), shape)
            value = Array(el.select.node(inside, full, target.node))
        target.assign(value, f"np.{name} with out=")
    return out if len(outs) > 1 else outs[0]


_REDUCE = {
    np.add: "sum", np.multiply: "prod", np.maximum: "max", np.minimum: "min",
    np.logical_and: "all", np.logical_or: "any",
}  # fmt: skip


def _reduce(ufunc: Any, x: Any, axis: Any = 0, dtype: Any = None, **options: Any) -> Any:
    if ufunc not in _REDUCE:
        raise UnsupportedFunction(f"np.{ufunc.__name__}.reduce", "tw.scan")
    if dtype is not None:
        x = asarray(x).astype(dtype)
    if dtype is not None and _REDUCE[ufunc] in ("sum", "prod"):  # they widen what is narrow
        options["dtype"] = dtype
    given = {k: v for k, v in options.items() if v is not None and v is not np._NoValue}
    return getattr(_namespace(), _REDUCE[ufunc])(x, axis=axis, **given)


def _accumulate(ufunc: Any, x: Any, axis: int = 0, dtype: Any = None) -> Any:
    x = asarray(x) if dtype is None else asarray(x).astype(dtype)
    if ufunc in (np.add, np.multiply):
        scan = _namespace().cumsum if ufunc is np.add else _namespace().cumprod
        return scan(x, axis, dtype=dtype)
    if ufunc in (np.maximum, np.minimum):
        kind = "max" if ufunc is np.maximum else "min"
        return Cumulative(kind, axis % x.ndim, False)(x)
    raise UnsupportedFunction(f"np.{ufunc.__name__}.accumulate", "tw.scan")


def _outer(ufunc: Any, a: Any, b: Any, **options: Any) -> Any:
    left, right = asarray(a), asarray(b)
    wide = Reshape((*left.shape, *(1,) * right.ndim)).node(left.node)
    return call_ufunc(ufunc, "__call__", (Array(wide), b), options)


_AT = {np.add: "add", np.multiply: "mul", np.minimum: "min", np.maximum: "max"}


def _at(ufunc: Any, x: Any, key: Any, value: Any = None) -> None:
    if not isinstance(x, Array):
        raise UntracedWrite(repr(asarray(value)))
    if ufunc is np.subtract:
        ufunc, value = np.add, np.negative(value)
    if ufunc not in _AT:
        raise UnsupportedFunction(f"np.{ufunc.__name__}.at", "x.at[index].apply(function)")
    x.scatter(key, value, _AT[ufunc])


_UFUNC_METHODS: dict[str, Method] = {
    "reduce": _reduce,
    "accumulate": _accumulate,
    "outer": _outer,
    "at": _at,
}


# -- functions ---------------------------------------------------------------------------------


@cache
def _of_ufunc() -> Any:
    with forks.importing:
        from tilewright.scipy import of_ufunc

    return of_ufunc


@cache
def _namespace() -> Any:
    """`tilewright.numpy`, which is built on this module: imported late, as is SciPy's."""
    with forks.importing:
        import tilewright.numpy as namespace

    return namespace


def implementation(function: Any) -> Method:
    """What a NumPy function, or a ufunc of scipy.special, means on traced arrays. Raises
    UnsupportedFunction."""
    namespace = _namespace()
    found = namespace.FUNCTIONS.get(function) or _of_ufunc()(function)
    if found is not None:
        return found  # type: ignore[no-any-return]
    raise UnsupportedFunction(_qualified(function), namespace.ALTERNATIVES.get(function, ""))


def _qualified(function: Any) -> str:
    """`np.linalg.inv` for a function of numpy.linalg, the name alone of a ufunc of others."""
    if isinstance(function, np.ufunc) and getattr(np, function.__name__, None) is not function:
        return f"the ufunc {function.__name__}"
    module = getattr(function, "__module__", None) or "numpy"
    return f"np{module.removeprefix('numpy')}.{function.__name__}"


VIEWS = frozenset((
    "asarray", "asanyarray", "array_split", "atleast_1d", "atleast_2d", "atleast_3d",
    "broadcast_to", "dsplit", "expand_dims", "flip", "fliplr", "flipud", "hsplit",
    "matrix_transpose", "moveaxis", "permute_dims", "ravel", "reshape", "rollaxis", "rot90",
    "split", "squeeze", "swapaxes", "transpose", "unstack", "vsplit",
))  # fmt: skip
"""Functions of which NumPy gives views of the first argument where it can."""


def settled(name: str, result: Any, args: Sequence[Any]) -> Any:
    """The result of the namespace's function `name`, sharing memory exactly where NumPy's does."""
    if name in VIEWS and args and isinstance(args[0], Array):
        if isinstance(result, list | tuple):
            for part in result:
                _share(part, args[0])
            return result
        if result is not args[0]:
            _share(result, args[0])
        elif name not in ("asarray", "asanyarray"):
            return Array(result.node).sharing(result, ())
        return result
    if isinstance(result, Array) and any(result is a for a in args):
        return Array(result.node)
    return result


def _share(x: Any, base: Array) -> None:
    if not isinstance(x, Array) or x is base:
        return
    path = subscript.path_between(base.node, x.node)
    if path is None:
        return
    root = base if base._base is None else base._base
    if subscript.shares_memory((*base._path, *path), root.shape):
        x.sharing(base, path)
