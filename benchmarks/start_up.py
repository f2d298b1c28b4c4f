"""What `import tilewright` costs beyond `import numpy`, in fresh interpreters.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 9


def seconds(statement: str) -> float:
    """Wall time of a new interpreter that runs one statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Take turns, so that both see the same machine."""
    for statement in ("import numpy", "import tilewright"):
        seconds(statement)
    pairs = [(seconds("import numpy"), seconds("import tilewright")) for _ in range(ROUNDS)]
    beyond = statistics.median(ours - numpys for numpys, ours in pairs)
    print(f"import numpy: {1e3 * statistics.median(n for n, _ in pairs):.0f} ms")
    print(f"import tilewright: {1e3 * beyond:.0f} ms beyond it (median of {ROUNDS})")


if __name__ == "__main__":
    main()
