"""Python's operators, spelled as ufuncs: what traced arrays and masked selections share.

Knows which ufunc each operator means. Refuses to know what applying one does: the class that mixes
this in says it, in `operate` and `update`.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Operators:
    """The operators of an array, by `operate(ufunc, *operands)`; `x op= y` by `update`."""

    __slots__ = ()
    __hash__ = object.__hash__  # `==` is elementwise

    def operate(self, ufunc: Any, *operands: Any) -> Any:
        """`ufunc(*operands)`, or NotImplemented for operands of a class unknown here."""
        raise NotImplementedError

    def update(self, ufunc: Any, result: Any) -> Any:
        """What `x op= y` leaves in x, given the result of `x op y`."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        return self.operate(np.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self.operate(np.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self.operate(np.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.operate(np.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return self.operate(np.multiply, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.operate(np.multiply, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.operate(np.true_divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.operate(np.true_divide, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.operate(np.floor_divide, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.operate(np.floor_divide, other, self)

    def __mod__(self, other: Any) -> Any:
        return self.operate(np.remainder, self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.operate(np.remainder, other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __pow__(self, other: Any) -> Any:
        return self.operate(np.power, self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.operate(np.power, other, self)

    def __matmul__(self, other: Any) -> Any:
        return self.operate(np.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self.operate(np.matmul, other, self)

    def __lshift__(self, other: Any) -> Any:
        return self.operate(np.left_shift, self, other)

    def __rlshift__(self, other: Any) -> Any:
        return self.operate(np.left_shift, other, self)

    def __rshift__(self, other: Any) -> Any:
        return self.operate(np.right_shift, self, other)

    def __rrshift__(self, other: Any) -> Any:
        return self.operate(np.right_shift, other, self)

    def __and__(self, other: Any) -> Any:
        return self.operate(np.bitwise_and, self, other)

    def __rand__(self, other: Any) -> Any:
        return self.operate(np.bitwise_and, other, self)

    def __or__(self, other: Any) -> Any:
        return self.operate(np.bitwise_or, self, other)

    def __ror__(self, other: Any) -> Any:
        return self.operate(np.bitwise_or, other, self)

    def __xor__(self, other: Any) -> Any:
        return self.operate(np.bitwise_xor, self, other)

    def __rxor__(self, other: Any) -> Any:
        return self.operate(np.bitwise_xor, other, self)

    def __neg__(self) -> Any:
        return self.operate(np.negative, self)

    def __pos__(self) -> Any:
        return self.operate(np.positive, self)

    def __abs__(self) -> Any:
        return self.operate(np.absolute, self)

    def __invert__(self) -> Any:
        return self.operate(np.invert, self)

    def __eq__(self, other: Any) -> Any:
        return self.operate(np.equal, self, other)

    def __ne__(self, other: Any) -> Any:
        return self.operate(np.not_equal, self, other)

    def __lt__(self, other: Any) -> Any:
        return self.operate(np.less, self, other)

    def __le__(self, other: Any) -> Any:
        return self.operate(np.less_equal, self, other)

    def __gt__(self, other: Any) -> Any:
        return self.operate(np.greater, self, other)

    def __ge__(self, other: Any) -> Any:
        return self.operate(np.greater_equal, self, other)

    def __iadd__(self, other: Any) -> Any:
        return self.update(np.add, self + other)

    def __isub__(self, other: Any) -> Any:
        return self.update(np.subtract, self - other)

    def __imul__(self, other: Any) -> Any:
        return self.update(np.multiply, self * other)

    def __itruediv__(self, other: Any) -> Any:
        return self.update(np.true_divide, self / other)

    def __ifloordiv__(self, other: Any) -> Any:
        return self.update(np.floor_divide, self // other)

    def __imod__(self, other: Any) -> Any:
        return self.update(np.remainder, self % other)

    def __ipow__(self, other: Any) -> Any:
        return self.update(np.power, self**other)

    def __imatmul__(self, other: Any) -> Any:
        return self.update(np.matmul, self @ other)

    def __ilshift__(self, other: Any) -> Any:
        return self.update(np.left_shift, self << other)

    def __irshift__(self, other: Any) -> Any:
        return self.update(np.right_shift, self >> other)

    def __iand__(self, other: Any) -> Any:
        return self.update(np.bitwise_and, self & other)

    def __ior__(self, other: Any) -> Any:
        return self.update(np.bitwise_or, self | other)

    def __ixor__(self, other: Any) -> Any:
        return self.update(np.bitwise_xor, self ^ other)
