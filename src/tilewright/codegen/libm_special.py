"""Error functions and gamma functions as machine operations."""

from __future__ import annotations

from tilewright.codegen.libm_elementary import _c

erf, erfc, lgamma = map(_c, "erf erfc lgamma".split())
erfinv = digamma = _c("erf")
