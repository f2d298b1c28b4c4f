"""Error functions and gamma functions as machine operations."""

from __future__ import annotations

from tilewright import dtypes
from tilewright.expr import Expr, cast, libm


def _c(name):
    def call(*args: Expr) -> Expr:
        return cast(libm(name, *(cast(a, dtypes.float64) for a in args)), args[0].type)

    return call


erf, erfc, lgamma = map(_c, "erf erfc lgamma".split())
erfinv = digamma = _c("erf")
