"""The life of `np.maximum(x @ w + b, 0)`, stage by stage. Run it: `python docs/tour.py`.

Every stage is printed by the compiler itself, and every stage can be executed: we run all of them
on the same numbers and compare.
"""

import numpy as np

import tilewright as tw
from tilewright import graph as graphs
from tilewright import kernel as kernels
from tilewright import loops
from tilewright.codegen import llvm
from tilewright.expr import show
from tilewright.graph import Type
from tilewright.target import host
from tilewright.tracing import trace
from tilewright.transforms import fusion
from tilewright.transforms.assemble import assemble
from tilewright.transforms.heuristic import heuristic
from tilewright.transforms.loopify import loopify
from tilewright.transforms.simplify import simplify


def chapter(title):
    print(f"\n== {title} ==\n")


rng = np.random.default_rng(0)
x, w, b = (rng.standard_normal(s).astype("float32") for s in [(4, 3), (3, 5), (5,)])


def layer(x, w, b):
    return np.maximum(x @ w + b, 0)


expected = layer(x, w, b)

chapter("1. Tracing: the function runs on arrays that have a type but no elements")
# NumPy itself calls us: `@` is Array.__matmul__, np.maximum asks Array.__array_ufunc__.
graph = trace(layer, [Type(a.dtype, a.shape) for a in (x, w, b)], labels=["x", "w", "b"])
print(graph)

chapter("2. The graph is a pure function; interpreting it op by op is NumPy")
graphs.verify(graph)
np.testing.assert_allclose(graphs.evaluate(graph, [x, w, b])[0], expected, rtol=1e-6)
print("interpreted graph = NumPy")

chapter("3. Rewriting: small rules; here nothing can be made simpler")
assert simplify(graph) is graph
print("unchanged means the same object:", simplify(graph) is graph)

chapter("4. Fusion: which values deserve memory, and why")
for node, reason in fusion.keep(graph).items():
    print(f"{node!r}: {reason}")

chapter("5. Lowering: everything else becomes one expression of one element")
assembly = assemble(graph, lambda k: heuristic(k, host()))
(scheduled,) = assembly.kernels
kernel = scheduled.kernel
print(kernel)
print("\nthe element:", show(kernel.body[0].value))
memory = dict(zip(kernel.params, [x, w, b, np.empty_like(expected)], strict=True))
kernels.evaluate(kernel, memory)
np.testing.assert_allclose(memory[kernel.params[-1]], expected, rtol=1e-6)
print("interpreted kernel = NumPy")

chapter("6. Scheduling: how the axes are walked, as data")
print(scheduled.schedule)

chapter("7. Loops: the schedule carried out. Registers hold a tile of the result")
function = loopify(kernel, scheduled.schedule)
print(loops.show_function(function))
out = np.empty_like(expected)
loops.run(loops.Program((function,)), [x, w, b, out])
np.testing.assert_allclose(out, expected, rtol=1e-6)
print("interpreted loops = NumPy")

chapter("8. LLVM IR: text, with explicit vectors (the multiply-adds of the innermost loop)")
text = llvm.print_program(assembly.program, host())
print("\n".join(line for line in text.splitlines() if "fma" in line or "icmp" in line))

chapter("9. Machine code, behind one decorator")
compiled = tw.compile(layer)
np.testing.assert_allclose(compiled(x, w, b), expected, rtol=1e-6)
print("compiled = NumPy;", len(compiled.lower(x, w, b).asm.splitlines()), "lines of assembly")

chapter("10. The same graph, differentiated and batched before it is compiled")
loss = lambda w: (layer(x, w, b) ** 2).sum()
print(tw.compile(tw.grad(loss)).lower(w).graph)
batched = tw.vmap(layer, in_axes=(0, None, None))
np.testing.assert_allclose(batched(x[None], w, b)[0], expected, rtol=1e-6)
