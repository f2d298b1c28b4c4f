"""The catalogue of errors: each mistake, made through the public interface, and its full text.

A case is a function that makes the mistake; its docstring is the message. `HERE` and `BORN` stand
for the file and the lines marked so in the case, `AT` for the part of the message that points to
the line `HERE`. Texts are compared word by word, so docstrings may be wrapped.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

import program_mistakes  # noqa: F401  (lists its cases)
import tilewright as tw
from error_cases import CASES, X, case, expected
from tilewright import errors, trees
from tilewright.errors import TilewrightError
from tilewright.graph import Type, evaluate
from tilewright.target import named
from tilewright.tracing import closed

SOURCES = Path(errors.__file__).parent


# -- traced values as Python values ------------------------------------------------------------


@case(errors.TracedBool, TypeError)
def branching_on_a_value() -> None:
    """
    the truth value of Array(bool, traced at BORN) is not known while tracing
    AT
    Choose between values with np.where(test, a, b) and between computations with tw.cond; loop
    with tw.while_loop; combine tests with & and |. If the test is about an option, make that
    argument static.
    """

    def f(x: Any) -> Any:
        positive = x.sum() > 0  # BORN
        if positive:  # HERE
            return x
        return -x

    tw.compile(f)(X)


@case(errors.TracedNumber, TypeError)
def float_of_a_value() -> None:
    """
    Array(f32, traced at BORN) cannot become a Python float: its value is not known while tracing
    AT
    Stay in NumPy: np.sin instead of math.sin, x.astype(dtype) instead of float(x), tw.fori_loop
    instead of range. If the number decides a shape or an option, make the argument it comes
    from static.
    """

    def f(x: Any) -> Any:
        total = x.sum()  # BORN
        return float(total)  # HERE

    tw.compile(f)(X)


@case(errors.TracedNumber, TypeError)
def int_of_a_value() -> None:
    """
    Array(i64, traced at BORN) cannot become a Python int: its value is not known while tracing
    AT
    Stay in NumPy: np.sin instead of math.sin, x.astype(dtype) instead of float(x), tw.fori_loop
    instead of range. If the number decides a shape or an option, make the argument it comes
    from static.
    """

    def f(n: Any) -> Any:  # BORN
        return [0] * int(n)  # HERE

    tw.compile(f)(3)


@case(errors.TracedNumber, TypeError)
def range_of_a_value() -> None:
    """
    Array(i64, traced at BORN) cannot become an index, an extent or a count: its value is not
    known while tracing
    AT
    Stay in NumPy: np.sin instead of math.sin, x.astype(dtype) instead of float(x), tw.fori_loop
    instead of range. If the number decides a shape or an option, make the argument it comes
    from static.
    """

    def f(n: Any) -> Any:  # BORN
        return sum(range(n))  # HERE

    tw.compile(f)(3)


@case(errors.TracedNumber, TypeError)
def printing_a_value() -> None:
    """
    Array(f32[3], traced at BORN) cannot become text in the format '.2f': its value is not known
    while tracing
    AT
    Return the value and print it outside; a plain {x} shows its type while tracing.
    """

    def f(x: Any) -> Any:  # BORN
        print(f"{x:.2f}")  # HERE

    tw.compile(f)(X)


@case(errors.TracedConversion, TypeError)
def array_of_values() -> None:
    """
    Array(f32, traced at HERE) cannot become an ordinary NumPy array: its elements are not known
    while tracing
    AT
    Use x itself for np.asarray(x), x.copy() for np.array(x), np.stack for np.array([x, y]). To
    fill an array with traced values make it with tw.numpy.zeros(shape) or np.zeros_like(x).
    Functions outside NumPy (SciPy, math) have equivalents in tw.numpy, tw.scipy and tw.nn.
    """

    def f(x: Any) -> Any:
        return np.array([x[0], x[1]])  # HERE

    tw.compile(f)(X)


@case(errors.TracedConversion, TypeError)
def indexing_an_ordinary_table() -> None:
    """
    Array(i64[2], traced at BORN) cannot become an ordinary NumPy array: its elements are not
    known while tracing
    AT
    To index an ordinary array with traced integers or masks write tw.numpy.asarray(table)[i].
    What decides a shape, as in np.arange(n), must be static. Use x itself for np.asarray(x),
    x.copy() for np.array(x), np.stack for np.array([x, y]).
    """
    table = np.eye(3)

    def f(i: Any) -> Any:  # BORN
        return table[i]  # HERE

    tw.compile(f)(np.array([0, 2]))


@case(errors.EscapedTracer, RuntimeError)
def a_value_kept_in_a_list() -> None:
    """
    Array(f32[3], traced at BORN), made while tracing `keep`, is used after that trace has ended
    AT
    Return the value from `keep` instead of keeping it in a global, an attribute or a closure.
    """
    kept = []

    def keep(x: Any) -> Any:
        kept.append(x * 2)  # BORN
        return x

    def use(x: Any) -> Any:
        return x + kept[0]  # HERE

    tw.compile(keep)(X)
    tw.compile(use)(X)


@case(errors.DynamicShape, ValueError)
def length_of_a_selection() -> None:
    """
    Selection(f32 elements of Array(f32[3], traced at BORN) under a mask) has a shape that
    depends on values, which are not known while tracing
    AT
    Keep the full shape and choose with np.where(mask, x, other), reduce the selection
    (x[mask].sum(), .mean(), .max()), or make what decides the shape static.
    """

    def f(x: Any) -> Any:
        y = x * 2  # BORN
        return len(y[y > 0])  # HERE

    tw.compile(f)(X)


# -- arguments ---------------------------------------------------------------------------------


@case(errors.NotAnArray, TypeError)
def a_string_argument() -> None:
    """
    `options['mode']` is a str, not an array or a number: 'relu'
    AT
    Pass arrays, numbers, or tuples, lists, dicts and dataclasses of them. Make options static:
    tw.compile(f, static=...).
    """

    def f(x: Any, options: Any) -> Any:
        return x

    tw.compile(f)(X, {"mode": "relu"})  # HERE


@case(errors.ArraySubclass, TypeError)
def a_masked_array() -> None:
    """
    `x` is a MaskedArray, whose operations may differ from those of an ordinary array
    AT
    Pass np.asarray(x) if MaskedArray adds nothing that matters here; for a masked array pass
    x.filled(0) and the mask.
    """

    def f(x: Any) -> Any:
        return x.sum()

    tw.compile(f)(np.ma.masked_array(X, X > 0))  # HERE


@case(errors.UnfinishedResult, TypeError)
def returning_a_generator() -> None:
    """
    `f` returned a generator, which has yet to give its values
    AT
    Return the values: a list or tuple instead of a generator or iterator, x.at[i].get() or
    .set(v) instead of x.at[i].
    """

    def f(x: Any) -> Any:
        return (y + 1 for y in x)

    tw.compile(f)(X)  # HERE


@case(errors.UnsupportedDType, TypeError)
def an_object_array() -> None:
    """
    `x` has elements of type object (often a ragged nested list), which cannot be compiled
    AT
    Convert it first: bool, (u)int8 to 64, float16/32/64, bfloat16 and complex64/128 are supported.
    """

    def f(x: Any) -> Any:
        return x

    tw.compile(f)(np.array([None, 1]))  # HERE


@case(errors.UnsupportedDType, TypeError)
def an_array_of_strings() -> None:
    """
    `x` has elements of type <U1, which cannot be compiled
    AT
    Convert it first: bool, (u)int8 to 64, float16/32/64, bfloat16 and complex64/128 are supported.
    """

    def f(x: Any) -> Any:
        return x

    tw.compile(f)(np.array(["a"]))  # HERE


@case(errors.NotAFunction, TypeError)
def compiling_a_result() -> None:
    """
    compile needs a function, this is an object of type int
    AT
    Pass the function itself, and call what comes back: tw.compile(f)(x).
    """
    tw.compile(3)  # HERE


@case(errors.UnknownStatic, TypeError)
def a_static_name_that_is_misspelt() -> None:
    """
    `f` has no parameter 'moed' to be static; it has x, mode
    AT
    Name one of them, or give its position.
    """

    def f(x: Any, mode: str) -> Any:
        return x

    tw.compile(static=("moed",))(f)  # HERE


@case(errors.BadThreadCount, ValueError)
def no_threads_at_all() -> None:
    """tw.threads is 0, which is no number of threads AT
    It takes a positive integer; 1 means the calling thread alone."""
    tw.threads(0).__enter__()  # HERE


@case(errors.BadBudget, ValueError)
def less_than_no_trials() -> None:
    """tune was given trials=-1, which is no budget AT
    It takes an integer that is not negative; with 0 nothing is measured, and what is known already
    is used."""
    tw.tune(np.sin, X, trials=-1)  # HERE


@case(errors.BadBudget, ValueError)
def no_number_of_seconds() -> None:
    """tune was given seconds=nan, which is no budget AT
    It takes a number that is not negative; with 0 nothing is measured, and what is known already
    is used."""
    tw.tune(np.sin, X, seconds=float("nan"))  # HERE


@case(errors.BadSearch, ValueError)
def a_search_nobody_wrote() -> None:
    """there is no search 'genetic' AT
    It may be 'guided', 'gradient', 'evolutionary', 'random'."""
    tw.tune(np.sin, X, search="genetic")  # HERE


@case(errors.NotAFunction, TypeError)
def tuning_a_number() -> None:
    """tune needs a function, this is an object of type int AT
    Pass the function itself, compiled or not, and its arguments after it: tw.tune(f, x)."""
    tw.tune(3)  # type: ignore[arg-type]  # HERE


@case(errors.BadTarget, ValueError)
def a_machine_nobody_built() -> None:
    """the target is 'avx3', which is not known AT It may be avx2, neon, sse2."""
    named("avx3")  # HERE


@case(errors.UnhashableStatic, TypeError)
def a_static_list() -> None:
    """
    the static argument `shape` is a list, which is not hashable: [3, 1]
    AT
    Static arguments are part of the cache key: pass a tuple instead of a list, a frozen
    dataclass instead of a dict.
    """

    def f(x: Any, shape: Any) -> Any:
        return x.reshape(shape)

    tw.compile(f, static=("shape",))(X, [3, 1])  # HERE


@case(errors.TreeMismatch, ValueError)
def mapping_over_different_trees() -> None:
    """
    two trees differ in structure:     {'w': *}     {'b': *}
    AT
    Both must be the same containers with the same keys and lengths.
    """

    def add(a: Any, b: Any) -> Any:
        return a + b

    trees.map(add, {"w": X}, {"b": X})  # HERE


@case(errors.ContractViolation, TypeError)
def two_sizes_for_one_axis() -> None:
    """
    `w` is f64[4,5], which does not fit Float[ndarray, "d k"]: its shape contradicts n=2, d=3
    AT
    Pass what the annotation says, or correct the annotation.
    """

    def f(x: Float[np.ndarray, "n d"], w: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "n k"]:
        return x @ w

    tw.compile(f)(np.ones((2, 3)), np.ones((4, 5)))  # HERE


# -- operations --------------------------------------------------------------------------------


@case(errors.ShapeMismatch, ValueError)
def adding_shapes_that_do_not_fit() -> None:
    """
    add: operands cannot be broadcast together: shapes (3,) and (2, 4)
    AT
    Broadcasting aligns shapes at the right; extents must be equal or 1. Add axes with x[:,
    None] or reshape.
    """

    def f(x: Any, y: Any) -> Any:
        return x + y  # HERE

    tw.compile(f)(X, np.ones((2, 4), np.float32))


@case(errors.ShapeMismatch, ValueError)
def a_product_that_does_not_fit() -> None:
    """
    matmul's inner extents differ: shapes (2, 3) and (2, 3)
    AT
    The last axis of the first must have the extent of the last but one (or only) axis of the
    second: transpose one of them (x.T), or reshape.
    """

    def f(x: Any) -> Any:
        return x @ x  # HERE

    tw.compile(f)(np.ones((2, 3)))


@case(errors.MissingAttribute, AttributeError)
def looking_at_the_bits() -> None:
    """
    a traced array has no `view`: its elements are not in memory yet
    AT
    Use tw.lax.bitcast_convert_type(x, dtype), or x.copy().
    """

    def f(x: Any) -> Any:
        return x.view(np.int32)  # HERE

    tw.compile(f)(X)


@case(errors.UnsupportedFunction, TypeError)
def assigning_to_at() -> None:
    """
    x.at[i] = v is not supported on traced arrays
    AT
    Instead: x = x.at[i].set(v), or x[i] = v.
    """

    def f(x: Any) -> Any:
        x.at[0] = 1  # HERE

    tw.compile(f)(X)


@case(errors.DTypeMismatch, TypeError)
def inverting_floats() -> None:
    """
    np.invert does not exist for (float32)
    AT
    Convert an operand with x.astype(dtype).
    """

    def f(x: Any) -> Any:
        return ~x  # HERE

    tw.compile(f)(X)


@case(errors.DTypeMismatch, TypeError)
def adding_floats_into_integers() -> None:
    """
    in-place add: cannot cast the float64 result to the array's int64
    AT
    Make a new array (x = x + y), or convert first: x = x.astype(float64).
    """

    def f(x: Any) -> Any:
        y = x.copy()
        y += 0.5  # HERE
        return y

    tw.compile(f)(np.arange(3))


@case(errors.IntegerRange, OverflowError)
def a_number_too_large_for_bytes() -> None:
    """
    Python integer 300 out of bounds for uint8
    AT
    A Python number adopts the array's type: convert the array with x.astype(...) first.
    """

    def f(x: Any) -> Any:
        return x + 300  # HERE

    tw.compile(f)(np.ones(3, np.uint8))


@case(errors.UnsupportedFunction, TypeError)
def saving_inside() -> None:
    """
    np.savetxt is not supported on traced arrays
    AT
    Instead: returning the array and saving it outside.
    """

    def f(x: Any) -> Any:
        np.savetxt("x.txt", x)  # HERE
        return x

    tw.compile(f)(X)


@case(errors.UnsupportedFunction, TypeError)
def reduceat() -> None:
    """
    np.add.reduceat is not supported on traced arrays
    AT
    Instead: np.add.reduce or a tw.scan.
    """

    def f(x: Any) -> Any:
        return np.add.reduceat(x, [0, 2])  # HERE

    tw.compile(f)(X)


@case(errors.BadIndex, IndexError)
def an_index_past_the_end() -> None:
    """
    index 3 is out of bounds for an axis of extent 3, indexing an array of shape (3,)
    AT
    Index with integers, slices, `...`, None, integer arrays or boolean masks within the shape.
    """

    def f(x: Any) -> Any:
        return x[3]  # HERE

    tw.compile(f)(X)


@case(errors.BadAxis, np.exceptions.AxisError)
def a_sum_over_an_axis_too_many() -> None:
    """
    axis 2 is out of bounds for an array with 1 axes
    AT
    Axes are -1 to 0.
    """

    def f(x: Any) -> Any:
        return np.sum(x, axis=2)  # HERE

    tw.compile(f)(X)


@case(errors.Unsized, TypeError)
def length_of_a_scalar() -> None:
    """
    Array(f32, traced at BORN) has no axes: it has no length and cannot be iterated over
    AT
    Use np.atleast_1d(x) for an axis of extent 1.
    """

    def f(x: Any) -> Any:
        total = x.sum()  # BORN
        return len(total)  # HERE

    tw.compile(f)(X)


# -- writes ------------------------------------------------------------------------------------


@case(errors.ArgumentWrite, ValueError)
def writing_to_an_argument() -> None:
    """
    Array(f32[3], traced at BORN) is the argument `values`: writing to it would change the
    caller's array
    AT
    Write to a copy (values = values.copy()), or make a new array: values =
    values.at[index].set(value).
    """

    def f(values: Any) -> Any:  # BORN
        values[0] = 1  # HERE
        return values

    tw.compile(f)(X)


@case(errors.ConstantGone, ReferenceError)
def the_constants_of_another_function() -> None:
    """
    a program does not keep the arrays of the functions it was made for, and nobody has this one any
    more: f32[7,5]
    AT
    Evaluate the graph that was traced: f.lower(x).graph.
    """

    def lowered() -> Any:
        w = tw.constant(np.ones((7, 5), np.float32))
        return tw.compile(lambda x: np.arctan(x) @ w).lower(np.ones((3, 7), np.float32))

    first, second = lowered(), lowered()
    del first
    gc.collect()
    evaluate(second.simplified, [np.ones((3, 7), np.float32)])  # HERE


@case(errors.NotConstant, ValueError)
def an_argument_is_no_constant() -> None:
    """
    Array(f32[3], traced at BORN) is an argument, or computed from one, and may differ in the next
    call: it is no constant
    AT
    Call tw.constant on the array outside the compiled function, and let the function capture the
    result.
    """

    def f(w: Any) -> Any:  # BORN
        return tw.constant(w) + 1  # HERE

    tw.compile(f)(X)


@case(errors.CapturedWrite, ValueError)
def writing_to_an_array_of_the_function_around() -> None:
    """
    Array(f32[3], traced at BORN) belongs to the function around `body` and cannot be written to
    inside it
    AT
    Pass the array to `body` (in a loop, as part of the carry) and return the new one.
    """

    def f(x: Any) -> Any:  # BORN
        total = x.copy()

        def body(y: Any) -> Any:
            total[0] = y[0]  # HERE
            return y

        return closed(body, [Type(x.dtype, x.shape)])

    tw.compile(f)(X)


@case(errors.ViewWrite, ValueError)
def writing_to_a_broadcast_view() -> None:
    """
    Array(f32[2,3], traced at BORN) is a read-only view made by broadcasting
    AT
    Write to a copy (y = y.copy()), or make a new array: y = y.at[index].set(value).
    """

    def f(x: Any) -> Any:
        y = np.broadcast_to(x.copy(), (2, 3))  # BORN
        y[0] = 1  # HERE
        return y

    tw.compile(f)(X)


@case(errors.UntracedWrite, TypeError)
def filling_an_ordinary_array() -> None:
    """
    Array(f32, traced at HERE) cannot be written into an ordinary NumPy array, which exists only
    while tracing
    AT
    Make the array with tw.numpy.zeros(shape) or np.zeros_like(x), which can hold traced values,
    instead of np.zeros(shape).
    """

    def f(x: Any) -> Any:
        y = np.zeros(3)
        y[0] = x[0]  # HERE
        return y

    tw.compile(f)(X)


# -- the catalogue -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "builtin", "mistake"), CASES, ids=[mistake.__name__ for _, _, mistake in CASES]
)
def test_full_text(
    error: type[TilewrightError], builtin: type[Exception], mistake: Callable[[], Any]
) -> None:
    with pytest.raises(builtin) as caught:
        mistake()
    assert type(caught.value) is error
    assert " ".join(str(caught.value).split()) == expected(mistake)


def test_every_error_has_a_case() -> None:
    defined = {
        e for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, TilewrightError) and e is not TilewrightError
    }  # fmt: skip
    assert defined == {error for error, _, _ in CASES}


@pytest.mark.parametrize("error", [*{e: None for e, _, _ in CASES}, errors.Recompilation])
def test_every_error_says_what_fails_and_the_way_out(error: type[Exception]) -> None:
    assert "Fails:" in (error.__doc__ or "")
    assert "Way out:" in (error.__doc__ or "")


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda p: p.stem)
def test_messages_name_what_exists(path: Path) -> None:
    """`tw.scan`, `np.where`, ... in messages, docstrings and comments are real."""
    for name in re.findall(r"(?<![\w.])(?:tw|tilewright|np)(?:\.[a-z]\w*)+", path.read_text()):
        root, *rest = name.split(".")
        found: Any = np if root == "np" else tw
        for part in rest:
            if inspect.ismodule(found) and not hasattr(found, part):
                assert importlib.util.find_spec(f"{found.__name__}.{part}"), name
                found = importlib.import_module(f"{found.__name__}.{part}")
            elif inspect.ismodule(found):
                found = getattr(found, part)


def test_lines_of_messages_stay_readable() -> None:
    for _, _, mistake in CASES:
        with pytest.raises(TilewrightError) as caught:
            mistake()
        advice = caught.value.way_out.splitlines()
        assert all(len(line) <= 110 for line in advice), mistake.__name__
