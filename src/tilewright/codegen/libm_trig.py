"""Trigonometric functions and their inverses as machine operations."""

from __future__ import annotations

from tilewright.codegen.libm_elementary import _c

sin, cos, tan, arcsin, arccos, arctan, arctan2 = map(_c, "sin cos tan asin acos atan atan2".split())
