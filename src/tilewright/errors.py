"""The catalogue of errors: each class is one mistake, with a failing example and the way out.

Knows how a message is built: what happened with the values that matter, the user's own line, what
to do. Refuses to know when a mistake was made: the code that finds it raises it.

Every class derives from `TilewrightError` and from the built-in error Python or NumPy would raise,
so `except ValueError` around NumPy code keeps working when the code is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tilewright.source import Source, user_source


class TilewrightError(Exception):
    """Everything the compiler raises on purpose derives from this.

    `what` happened, at the user's line `source` (found on the stack unless given), and the
    `way_out`. All three are attributes too.
    """

    def __init__(self, what: str, way_out: str = "", source: Source | None = None) -> None:
        self.what, self.way_out = what, way_out
        self.source = source or user_source()
        super().__init__("\n".join(message(what, way_out, self.source)))


def message(what: str, way_out: str, source: Source | None) -> list[str]:
    """The lines of a message."""
    lines = [what]
    if source is not None:
        lines.append(f'  File "{source.file}", line {source.line}, in {source.function}')
        if source.text:
            lines.append(f"    {source.text}")
    return [*lines, way_out] if way_out else lines


class InternalError(TilewrightError):
    """The compiler contradicts itself: a bug of ours. The message prints the offending term.

    Fails: nothing you can write should.
    Way out: report it with the message.
    """


# -- a traced value used as a Python one -------------------------------------------------------


class TracedBool(TilewrightError, TypeError):
    """A traced array was asked for its truth value: its elements are not known while tracing.

    Fails: `if x.sum() > 0: ...`, `while err > tol: ...`, `a and b`, `0 < x < 1`, `max(x, y)`.
    Way out: `np.where` for a choice of values, `tw.cond` for a choice of computations,
    `tw.while_loop` for a loop, `&` and `|` for `and` and `or`, a static argument for a mode.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(
            f"the truth value of {value!r} is not known while tracing",
            "Choose between values with np.where(test, a, b) and between computations with tw.cond;"
            " loop with\ntw.while_loop; combine tests with & and |. If the test is about an option,"
            " make that argument static.",
        )


class TracedNumber(TilewrightError, TypeError):
    """A traced array was asked for its value as a Python number.

    Fails: `float(x.sum())`, `int(i)`, `range(n)` or `np.zeros(n)` with n traced, `math.sin(x)`,
    `x.item()`, `x.tolist()`, `a_list[i]`.
    Way out: stay in NumPy (`np.sin`, `x.astype(int)`, `tw.numpy.array(a_list)[i]`), loop
    with `tw.fori_loop`, or make the argument the number comes from static.
    """

    def __init__(self, value: Any, to: str, way_out: str = "") -> None:
        self.value = repr(value)
        super().__init__(
            f"{value!r} cannot become {to}: its value is not known while tracing",
            way_out
            or "Stay in NumPy: np.sin instead of math.sin, x.astype(dtype) instead of float(x),"
            " tw.fori_loop instead\nof range. If the number decides a shape or an option, make the"
            " argument it comes from static.",
        )


INDEXED: Final = (
    "To index an ordinary array with traced integers or masks write tw.numpy.asarray(table)[i]."
    " What decides a\nshape, as in np.arange(n), must be static. Use x itself for np.asarray(x),"
    " x.copy() for np.array(x),\nnp.stack for np.array([x, y])."
)
"""The way out for integers and bools: most often they index."""


class TracedConversion(TilewrightError, TypeError):
    """A traced array was asked for its elements as an ordinary NumPy array.

    Fails: `np.asarray(x)`, `np.array([x[0], x[1]])`, `scipy.special.softmax(x)`, `buffer[:] = x`
    with `buffer = np.zeros(3)`; `table[i]` with an ordinary table and i traced.
    Way out: x itself, `x.copy()`; `np.stack([x[0], x[1]])`; `tw.nn` and `tw.scipy` functions in
    place of SciPy's; `buffer = np.zeros_like(x)` or `tw.numpy.zeros(3)`;
    `tw.numpy.asarray(table)[i]`.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(
            f"{value!r} cannot become an ordinary NumPy array: its elements are not known while"
            " tracing",
            INDEXED
            if value.dtype.kind in "biu"
            else "Use x itself for np.asarray(x), x.copy() for np.array(x), np.stack for"
            " np.array([x, y]). To fill an array\nwith traced values make it with"
            " tw.numpy.zeros(shape) or np.zeros_like(x). Functions outside NumPy (SciPy,\nmath)"
            " have equivalents in tw.numpy, tw.scipy and tw.nn.",
        )


class EscapedTracer(TilewrightError, RuntimeError):
    """A traced array was used after the trace that made it had ended.

    Fails: `cache.append(x)` inside a compiled function, and `cache[0] + 1` after it.
    Way out: return the value from the function.
    """

    def __init__(self, value: str, function: str) -> None:
        super().__init__(
            f"{value}, made while tracing `{function}`, is used after that trace has ended",
            f"Return the value from `{function}` instead of keeping it in a global, an attribute or"
            " a closure.",
        )


class DynamicShape(TilewrightError, ValueError):
    """A result would have a shape that depends on values.

    Fails: `np.nonzero(x)`, `np.unique(x)`, `len(x[x > 0])`, `x[:n]` with n traced.
    Way out: keep the full shape and select with `np.where`, reduce the selection
    (`x[x > 0].sum()`), or make what decides the shape static.
    """

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(
            f"{what} has a shape that depends on values, which are not known while tracing",
            instead
            or "Keep the full shape and choose with np.where(mask, x, other), reduce the"
            " selection (x[mask].sum(),\n.mean(), .max()), or make what decides the shape static.",
        )


# -- arguments ---------------------------------------------------------------------------------


class NotAnArray(TilewrightError, TypeError):
    """An argument or operand that is no array and no number.

    Fails: `compile(f)(x, "relu")`, `x + None`.
    Way out: pass arrays and numbers; make options static: `compile(f, static=("mode",))`.
    """

    def __init__(self, value: Any, label: str = "") -> None:
        text = f"`{label}` is" if label else "this is"
        shown = repr(value)
        shown = shown if len(shown) < 60 else shown[:57] + "..."
        super().__init__(
            f"{text} a {type(value).__name__}, not an array or a number: {shown}",
            "Pass arrays, numbers, or tuples, lists, dicts and dataclasses of them."
            " Make options static:\ntw.compile(f, static=...).",
        )


class ArraySubclass(TilewrightError, TypeError):
    """An array of a class that gives NumPy's functions another meaning: masks, units, matrices.

    Fails: `compile(f)(np.ma.masked_array(x, mask))`, `compile(f)(np.matrix(x))`.
    Way out: `np.asarray(x)`; for a masked array `x.filled(0)`, and the mask as an argument.
    """

    def __init__(self, value: Any, label: str = "") -> None:
        name = type(value).__name__
        super().__init__(
            f"{f'`{label}` is' if label else 'this is'} a {name}, whose operations may differ from"
            " those of an ordinary array",
            f"Pass np.asarray(x) if {name} adds nothing that matters here; for a masked array pass"
            " x.filled(0) and\nthe mask.",
        )


class UnfinishedResult(TilewrightError, TypeError):
    """A function returned something that has yet to run: then it would run on traced arrays.

    Fails: `compile(lambda x: map(np.sin, x))(x)`, `return (y + 1 for y in x)`, `return x.at[0]`.
    Way out: return the values: `list(map(np.sin, x))`, `x.at[0].get()`.
    """

    def __init__(self, function: str, value: Any) -> None:
        super().__init__(
            f"`{function}` returned a {type(value).__name__}, which has yet to give its values",
            "Return the values: a list or tuple instead of a generator or iterator, x.at[i].get()"
            " or .set(v) instead\nof x.at[i].",
        )


class UnsupportedDType(TilewrightError, TypeError):
    """An element type no machine instruction works on.

    Fails: `compile(f)(np.array(["a"]))`, object arrays (often ragged nested lists), datetimes.
    Way out: convert to bool, an integer, a float or a complex type before the call.
    """

    def __init__(self, dtype: Any, label: str = "") -> None:
        hint = " (often a ragged nested list)" if getattr(dtype, "kind", "") == "O" else ""
        super().__init__(
            f"{f'`{label}`' if label else 'an array'} has elements of type {dtype}{hint}, which"
            " cannot be compiled",
            "Convert it first: bool, (u)int8 to 64, float16/32/64, bfloat16 and complex64/128 are"
            " supported.",
        )


class UnhashableStatic(TilewrightError, TypeError):
    """A static argument that cannot be a dictionary key.

    Fails: `compile(f, static=("shape",))(x, shape=[2, 3])`.
    Way out: pass a hashable value: a tuple for a list, a frozen dataclass for a dict.
    """

    def __init__(self, value: Any, label: str) -> None:
        super().__init__(
            f"the static argument `{label}` is a {type(value).__name__}, which is not hashable:"
            f" {value!r}",
            "Static arguments are part of the cache key: pass a tuple instead of a list, a frozen"
            " dataclass instead\nof a dict.",
        )


class NotAFunction(TilewrightError, TypeError):
    """Something that cannot be called where a function is compiled or tuned.

    Fails: `tw.compile(f(x))`, which compiles f's result; `tw.tune(f(x))`.
    Way out: pass the function itself: `tw.compile(f)(x)`, `tw.tune(f, x)`.
    """

    def __init__(self, value: Any, who: str = "compile") -> None:
        way_out = "and call what comes back: tw.compile(f)(x)."
        if who != "compile":
            way_out = f"compiled or not, and its arguments after it: tw.{who}(f, x)."
        super().__init__(
            f"{who} needs a function, this is an object of type {type(value).__name__}",
            f"Pass the function itself, {way_out}",
        )


class UnknownStatic(TilewrightError, TypeError):
    """A static argument that the function has no parameter for.

    Fails: `compile(f, static=("moed",))` for `def f(x, mode)`.
    Way out: name one of the parameters, or give its position.
    """

    def __init__(self, function: str, name: str | int, parameters: Sequence[str]) -> None:
        super().__init__(
            f"`{function}` has no parameter {name!r} to be static; it has"
            f" {', '.join(parameters) or 'none'}",
            "Name one of them, or give its position.",
        )


class BadThreadCount(TilewrightError, ValueError):
    """A number of threads that is none.

    Fails: `with tw.threads(0): ...`; `TILEWRIGHT_NUM_THREADS=many`.
    Way out: a positive integer; 1 is the calling thread alone.
    """

    def __init__(self, where: str, count: object) -> None:
        super().__init__(
            f"{where} is {count!r}, which is no number of threads",
            "It takes a positive integer; 1 means the calling thread alone.",
        )


class BadBudget(TilewrightError, ValueError):
    """An amount of tuning that is none.

    Fails: `tw.tune(f, x, trials=-1)`; `tw.tune(f, x, seconds=float("nan"))`.
    Way out: a number that is not negative; with 0 nothing is measured, and what is known is used.
    """

    def __init__(self, name: str, value: object) -> None:
        number = "an integer" if name == "trials" else "a number"
        super().__init__(
            f"tune was given {name}={value!r}, which is no budget",
            f"It takes {number} that is not negative; with 0 nothing is measured, and what is"
            " known already is used.",
        )


class BadSearch(TilewrightError, ValueError):
    """A search by a name that there is none of.

    Fails: `tw.tune(f, x, search="genetic")`.
    Way out: one of the names in the message.
    """

    def __init__(self, name: object, names: Sequence[str]) -> None:
        super().__init__(
            f"there is no search {name!r}", f"It may be {', '.join(map(repr, names))}."
        )


class BadTarget(TilewrightError, ValueError):
    """A target that programs are asked to be made for, and that is not to be had.

    Fails: `TILEWRIGHT_TARGET=avx3`; `TILEWRIGHT_TARGET=avx2` on a processor without AVX2.
    Way out: one of the names in the message, or `host` for everything the machine can.
    """

    def __init__(self, where: str, name: str, reason: str, names: Sequence[str]) -> None:
        super().__init__(f"{where} is {name!r}, which {reason}", f"It may be {', '.join(names)}.")


class TreeMismatch(TilewrightError, ValueError):
    """Two pytrees that should have the same structure do not.

    Fails: `tw.tree.map(f, {"a": 1}, {"b": 1})`; a scan whose body returns another carry.
    Way out: make both sides the same containers with the same keys.
    """

    def __init__(
        self, first: str, second: str, where: str = "two trees", way_out: str = ""
    ) -> None:
        super().__init__(
            f"{where} differ in structure:\n    {first}\n    {second}",
            way_out or "Both must be the same containers with the same keys and lengths.",
        )


class ContractViolation(TilewrightError, TypeError):
    """An argument or result does not fit its jaxtyping annotation.

    Fails: `f(x: Float[np.ndarray, "n d"], w: Float[np.ndarray, "d k"])` called with shapes
    (3, 4) and (5, 6): d cannot be both 4 and 5.
    Way out: pass what the annotation says, or correct the annotation.
    """

    def __init__(self, label: str, value: str, annotation: str, reason: str) -> None:
        super().__init__(
            f"`{label}` is {value}, which does not fit {annotation}: {reason}",
            "Pass what the annotation says, or correct the annotation.",
        )


# -- operations --------------------------------------------------------------------------------


BROADCASTING: Final = (
    "Broadcasting aligns shapes at the right; extents must be equal or 1."
    " Add axes with x[:, None] or\nreshape."
)
"""The way out where shapes do not broadcast."""


class ShapeMismatch(TilewrightError, ValueError):
    """Shapes that do not fit together.

    Fails: `x + y` with shapes (3, 4) and (5,); `a @ b` with (2, 3) and (4, 5).
    Way out: reshape, transpose or add an axis (`y[:, None]`) so that the shapes fit.
    """

    def __init__(self, what: str, *shapes: Sequence[Any], way_out: str = "") -> None:
        listed = " and ".join(str(tuple(s)) for s in shapes)
        super().__init__(
            f"{what}: shapes {listed}" if shapes else what,
            way_out or "Reshape, transpose or add axes (x[:, None]) so that they fit.",
        )


class DTypeMismatch(TilewrightError, TypeError):
    """An operation that does not exist for these element types.

    Fails: `~x` on floats, `a - b` on bools, `i += 0.5` with i an integer array.
    Way out: convert with `x.astype(...)`.
    """

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(what, way_out or "Convert an operand with x.astype(dtype).")


class IntegerRange(TilewrightError, OverflowError):
    """A Python integer that does not fit the element type it must adopt.

    Fails: `x + 300` with x of type uint8.
    Way out: convert x to a wider type, or reduce the number.
    """

    def __init__(self, value: int, dtype: Any) -> None:
        super().__init__(
            f"Python integer {value} out of bounds for {dtype}",
            "A Python number adopts the array's type: convert the array with x.astype(...) first.",
        )


class UnsupportedFunction(TilewrightError, TypeError):
    """A NumPy function, or an option of one, that cannot be compiled.

    Fails: `np.savetxt("x", x)`, `np.add.reduceat(x, i)`, `np.exp(x, out=buffer)`.
    Way out: the alternative the message names.
    """

    def __init__(self, function: str, alternative: str = "") -> None:
        super().__init__(
            f"{function} is not supported on traced arrays",
            f"Instead: {alternative}."
            if alternative
            else "Call it outside the compiled function, on its result.",
        )


class BadIndex(TilewrightError, IndexError):
    """An index that does not fit the array, or is of a kind NumPy does not know.

    Fails: `x[5]` with shape (3,), `x[0, 0]` with one axis, `x["a"]`, `x[1.5]`.
    Way out: index with integers, slices, integer arrays or boolean masks within the shape.
    """

    def __init__(self, what: str, shape: Sequence[Any]) -> None:
        super().__init__(
            f"{what}, indexing an array of shape {tuple(shape)}",
            "Index with integers, slices, `...`, None, integer arrays or boolean masks within the"
            " shape.",
        )


class Unsized(TilewrightError, TypeError):
    """A 0-d array where one with axes is needed.

    Fails: `len(x.sum())`, `for y in x.sum(): ...`.
    Way out: `x.size`, or an array with at least one axis: `np.atleast_1d(x)`.
    """

    def __init__(self, value: str) -> None:
        super().__init__(
            f"{value} has no axes: it has no length and cannot be iterated over",
            "Use np.atleast_1d(x) for an axis of extent 1.",
        )


class BadAxis(TilewrightError, np.exceptions.AxisError):
    """An axis the array does not have. It is NumPy's AxisError too.

    Fails: `np.sum(x, axis=2)` with shape (3, 4), `np.transpose(x, (0, 2))`.
    Way out: count axes from 0, or from -1 backwards.
    """

    def __init__(self, axis: int, ndim: int) -> None:
        super().__init__(
            f"axis {axis} is out of bounds for an array with {ndim} axes",
            f"Axes are {-ndim} to {ndim - 1}." if ndim else "A scalar has none.",
        )


class MissingAttribute(TilewrightError, AttributeError):
    """An attribute of NumPy's arrays that traced arrays do not have: there is no memory yet.

    Fails: `x.view(np.int32)`, `x.strides`, `x.tobytes()`, `x.resize(4)`.
    Way out: the function the message names, or the attribute of the result, outside.
    """

    INSTEAD: Final = {
        "view": "tw.lax.bitcast_convert_type(x, dtype), or x.copy()",
        "put": "x[i] = v",
        "partition": "np.partition(x, k)",
        "argpartition": "np.argpartition(x, k)",
        "choose": "np.choose(x, choices)",
        "compress": "np.compress(condition, x)",
        "resize": "np.resize(x, shape)",
    }

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a traced array has no `{name}`: its elements are not in memory yet",
            f"Use {self.INSTEAD[name]}."
            if name in self.INSTEAD
            else f"Ask the result for its `{name}`, outside the compiled function.",
        )


class MissingRule(TilewrightError, TypeError):
    """An operation without a derivative (or transpose, or batching rule).

    Fails: `tw.grad` through `tw.while_loop` with a traced number of steps.
    Way out: `tw.custom_vjp` for a rule of your own, `tw.stop_gradient` where none is needed.
    """

    def __init__(self, op: str, rule: str) -> None:
        super().__init__(
            f"{op} has no {rule} rule",
            "Give the function a rule of its own with tw.custom_vjp or tw.custom_jvp, or cut the"
            " derivative with\ntw.stop_gradient.",
        )


class NoReverseMode(TilewrightError, TypeError):
    """Reverse mode through a loop whose number of steps is known only when it runs.

    Fails: `tw.grad` through `tw.while_loop`, or through `tw.fori_loop` with a traced bound.
    Way out: `tw.scan` or `tw.fori_loop` with Python numbers as bounds; `tw.jvp` and `tw.jacfwd`.
    """

    def __init__(self) -> None:
        super().__init__(
            "while_loop has no reverse-mode derivative: the number of steps is not known before it"
            " runs",
            "Use tw.scan, or tw.fori_loop with Python numbers as bounds; or forward mode: tw.jvp,"
            " tw.jacfwd.",
        )


class NoForwardMode(TilewrightError, TypeError):
    """Forward mode through a function that has only a reverse rule.

    Fails: `tw.jvp` of a function decorated with `tw.custom_vjp`.
    Way out: `tw.custom_jvp`, whose rule serves both modes; `tw.vjp`, `tw.grad` and `tw.jacrev`.
    """

    def __init__(self, function: str) -> None:
        super().__init__(
            f"`{function}` has a custom_vjp rule, which says nothing about forward mode",
            "Define the rule with tw.custom_jvp, which serves both modes, or use tw.vjp, tw.grad"
            " or tw.jacrev.",
        )


class NotDifferentiable(TilewrightError, TypeError):
    """A derivative with respect to, or of, something that has none.

    Fails: `tw.grad(f)(3)` (an integer), `tw.grad(lambda x: x)(np.ones(3))` (not a scalar),
    `tw.grad(f)` of a complex result without `holomorphic=True`.
    Way out: `x.astype(float)`; reduce the result to a scalar, or `tw.jacrev`.
    """


class CarryMismatch(TilewrightError, TypeError):
    """A loop body returns a carry of another type than it was given.

    Fails: `tw.scan(lambda c, x: (c + x, None), np.float32(0), xs)` with xs of float64.
    Way out: start with the type the body returns, or convert in the body.
    """

    def __init__(self, loop: str, label: str, before: Any, after: Any) -> None:
        super().__init__(
            f"the body of {loop} was given `{label}` as {before!r} and returned it as {after!r}",
            "The carry keeps its shapes and dtypes from step to step: convert the result"
            f" (.astype({before.dtype})),\nor start with a value of the type the body returns.",
        )


class BranchMismatch(TilewrightError, TypeError):
    """Branches whose results have different types.

    Fails: `tw.cond(p, lambda x: x, lambda x: x.sum(), x)`.
    Way out: give all branches results of the same shapes and dtypes.
    """

    def __init__(self, label: str, first: str, one: Any, second: str, other: Any) -> None:
        super().__init__(
            f"the branches give results of different types: result{label} is {one!r} from {first}"
            f" and {other!r} from {second}",
            "All branches must return the same shapes and dtypes: convert (.astype) or broadcast"
            " where they differ.",
        )


# -- writes ------------------------------------------------------------------------------------


class ArgumentWrite(TilewrightError, ValueError):
    """A write to an array the caller still owns.

    Fails: `def f(x): x[0] = 1; return x`, `def f(x): x += 1; return x`.
    Way out: `x = x.copy()` first, or `x = x + 1`, or `x = x.at[0].set(1)`.
    """

    def __init__(self, value: str, label: str) -> None:
        super().__init__(
            f"{value} is the argument `{label}`: writing to it would change the caller's array",
            f"Write to a copy ({label} = {label}.copy()), or make a new array:"
            f" {label} = {label}.at[index].set(value).",
        )


class CapturedWrite(TilewrightError, ValueError):
    """A write, inside a traced inner function, to an array of the function around it.

    Fails: `def body(i, c): total[i] = c; return c` under `tw.fori_loop`, with total outside.
    Way out: pass the array in and return it: as part of the carry, or as a result.
    """

    def __init__(self, value: str, function: str) -> None:
        super().__init__(
            f"{value} belongs to the function around `{function}` and cannot be written to"
            " inside it",
            f"Pass the array to `{function}` (in a loop, as part of the carry) and return the new"
            " one.",
        )


class NotConstant(TilewrightError, ValueError):
    """A traced array said to be a constant.

    Fails: `f = tw.compile(lambda w, x: x @ tw.constant(w))`.
    Way out: make the constant outside and capture it: `w = tw.constant(w)`.
    """

    def __init__(self, value: str) -> None:
        super().__init__(
            f"{value} is an argument, or computed from one, and may differ in the next call:"
            " it is no constant",
            "Call tw.constant on the array outside the compiled function, and let the function"
            " capture the result.",
        )


class ConstantGone(TilewrightError, ReferenceError):
    """A program's graph evaluated after the arrays it was made with are gone.

    Fails: evaluating `f.lower(x).simplified` when the program was made for another function like
    `f`, with arrays of its own that nobody has any more.
    Way out: evaluate `f.lower(x).graph`, which has the arrays of `f`.
    """

    def __init__(self, type: str) -> None:
        super().__init__(
            f"a program does not keep the arrays of the functions it was made for, and nobody has"
            f" this one any more: {type}",
            "Evaluate the graph that was traced: f.lower(x).graph.",
        )


class ViewWrite(TilewrightError, ValueError):
    """A write through a view that cannot be followed back to its array.

    Fails: `y = np.broadcast_to(x, (3, 4)); y[0] = 1`.
    Way out: write to the array itself, or to a copy: `y = y.copy()`.
    """

    def __init__(self, value: str, view: str) -> None:
        super().__init__(
            f"{value} is a read-only view made by {view}",
            "Write to a copy (y = y.copy()), or make a new array: y = y.at[index].set(value).",
        )


class UntracedWrite(TilewrightError, TypeError):
    """A traced value written into an ordinary NumPy array.

    Fails: `buffer[0] = x`, `buffer += x` or `np.add(x, 1, out=buffer)` with
    `buffer = np.zeros(3)`.
    Way out: `buffer = buffer + x`, or make the buffer with `tw.numpy.zeros(3)`.
    """

    def __init__(self, value: str, source: Source | None = None) -> None:
        super().__init__(
            f"{value} cannot be written into an ordinary NumPy array, which exists only while"
            " tracing",
            "Make the array with tw.numpy.zeros(shape) or np.zeros_like(x), which can hold traced"
            " values, instead of\nnp.zeros(shape).",
            source,
        )


# -- compiling and running ---------------------------------------------------------------------


class ScheduleError(TilewrightError, ValueError):
    """A schedule step that does not apply to the kernel.

    Fails: `Split("i", 8)` for a kernel without an axis i; `Vectorize("k.i")` of extent 3.
    Way out: use the kernel's own axis names and factors that fit their extents.
    """

    def __init__(self, step: str, axis: str, extent: Any, reason: str) -> None:
        size = f" of extent {extent}" if extent not in ("", "unknown") else ""
        super().__init__(
            f"{step} cannot be applied{f' to axis {axis}' if axis else ''}{size}: {reason}",
            "f.lower(...).kernels prints the axes and their extents.",
        )


class BadEncoding(TilewrightError, ValueError):
    """A stored kernel, machine or measurement that is not what was written.

    Fails: reading back a text that was cut short, edited, or written by another version.
    Way out: measure again, or export the original database once more.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"this is not a stored {what}: {reason}",
            "Export it again from the database it was measured into, with the same version.",
        )


class BadDatabase(TilewrightError, ValueError):
    """A file of measurements that cannot be used.

    Fails: `TILEWRIGHT_DATABASE=notes.txt`; a database that a later version wrote.
    Way out: name another file, or `off`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the database of measurements {path!r} cannot be used: {reason}",
            "Set TILEWRIGHT_DATABASE to another file, or to off to keep no measurements.",
        )


class OutOfMemory(TilewrightError, MemoryError):
    """The program needs more memory than there is.

    Fails: `x[:, None, :] - x[None, :, :]` kept in memory for a million points.
    Way out: smaller blocks (`tw.map`, `tw.scan`), `tw.checkpoint`, a narrower dtype.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(
            f"the program needs {_bytes(needed)} in one block, which the machine does not have",
            "Work in blocks (tw.map, tw.scan), recompute with tw.checkpoint, or use a narrower"
            " dtype.",
        )


def _bytes(n: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n = n / 1024  # type: ignore[assignment]
    raise AssertionError("unreachable: GiB returns")


class Recompilation(UserWarning):
    """A note, on request, that a function was compiled again, and which argument was new.

    Fails: nothing; a call per shape in a loop makes a compilation per shape.
    Way out: pad to a few sizes, give arguments one dtype, make fewer of them static.
    """

    def __init__(self, function: str, label: str, before: str, now: str) -> None:
        text = f"`{function}` is compiled again: `{label}` was {before} and is {now}"
        way_out = "Pass arrays of few distinct shapes and dtypes: pad them to a few sizes."
        super().__init__("\n".join(message(text, way_out, user_source())))
