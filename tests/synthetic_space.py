"""A search space whose costs are known: a product of m x k and k x n on an imaginary processor.

It has what `tilewright.cost_model.model.Space` asks for, with a part of its points illegal. What a
point costs is a formula that no search is told; measurements of it are a little noisy, always in
the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tilewright.cost_model.training import Group

PEAK, L1, LINE = 1e11, 32 << 10, 2e10
"""Operations a second, bytes, bytes a second; of the processor that the features assume."""
NAMES = (
    "flops", "m", "n", "k", "tile", "height", "width", "waste", "reads", "panel", "fits", "staged",
    "copied", "rounds", "inner", "outer", "lanes", "chunk",
)  # fmt: skip
VERSION = 1


class Hole(NamedTuple):
    name: str
    choices: tuple[Any, ...]


HOLES = (
    Hole("height", (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)),
    Hole("width", (1, 2, 3, 4, 6, 8)),
    Hole("lanes", (4, 8, 16)),
    Hole("order", ("rows", "columns", "blocks")),
    Hole("stage", (0, 1)),
    Hole("copy", ("no", "yes")),
    Hole("part", (8, 16, 32, 64, 128, 256, 512)),
    Hole("unroll", (1, 2, 4, 8)),
    Hole("chunk", (1, 2, 4, 8, 16, 32)),
)


def chosen(hole: int, x: Any) -> Any:
    """The choice at a place between choices: linear between neighbours, numbers or numbers of
    choices. [n]"""
    choices = HOLES[hole].choices
    values = [i if isinstance(c, str) else c for i, c in enumerate(choices)]
    near = np.maximum(1 - np.abs(x[:, hole, None] - np.arange(len(choices), dtype=np.float32)), 0)
    return near @ np.array(values, np.float32)


@dataclass(frozen=True)
class SyntheticSpace:
    m: int
    n: int
    k: int
    noise: float = 0.02
    l1: int = L1
    line: float = LINE

    holes = HOLES

    @property
    def machine(self) -> np.ndarray:
        """What tells processors apart: float32[2]."""
        return np.log2(np.array([self.l1 / L1, self.line / LINE], np.float32))

    @property
    def start(self) -> np.ndarray:
        """A legal point that is nowhere near the best: int64[1, H]."""
        return np.array([[3, 1, 1, 0, 0, 0, 2, 0, 0]])

    @cached_property
    def shape(self) -> np.ndarray:
        return np.array([len(h.choices) for h in HOLES])

    def legal(self, points: np.ndarray) -> np.ndarray:
        v = self._values(points)
        return (v["height"] * v["width"] + v["width"] < 32) & (v["part"] <= self.k)

    def random(self, rng: np.random.Generator, n: int) -> np.ndarray:
        drawn = np.unique(rng.integers(0, self.shape, (6 * n, len(HOLES))), axis=0)
        return rng.permutation(drawn[self.legal(drawn)])[:n]

    def features(self, points: np.ndarray) -> np.ndarray:
        return self.relaxed(np.asarray(points, np.float32))[0]

    def roofline(self, points: np.ndarray) -> np.ndarray:
        return self.relaxed(np.asarray(points, np.float32))[1].astype(np.float64)

    def relaxed(self, x: Any) -> tuple[Any, Any]:
        """Features float32[n, F] and the estimate in seconds float32[n] at real places x[n, H]."""
        height, width, lanes, order, stage, copy, part, unroll, chunk = (
            chosen(i, x) for i in range(len(HOLES))
        )
        wide = width * lanes
        waste = np.ceil(self.m / height) * height / self.m * np.ceil(self.n / wide) * wide / self.n
        panel = part * wide * 4
        whole = [np.log2(np.full_like(height, s)) for s in (2.0 * self.m * self.n * self.k,
                 self.m, self.n, self.k)]  # fmt: skip
        features = [
            *whole, np.log2(height * width), np.log2(height), np.log2(width), np.log2(waste),
            np.log2((height + width) / (height * width)), np.log2(panel / L1),
            (panel < L1).astype(np.float32), stage, copy, np.log2(unroll),
            (order < 0.5).astype(np.float32), (order > 1.5).astype(np.float32),
            np.log2(lanes), np.log2(chunk),
        ]  # fmt: skip
        return np.stack(features, axis=-1), waste * np.float32(
            2.0 * self.m * self.n * self.k / PEAK
        )

    def cost(self, points: np.ndarray) -> np.ndarray:
        """Seconds without noise, inf where illegal: float64[n]."""
        v = self._values(points)
        h, w, lanes = v["height"], v["width"], v["lanes"]
        wide = w * lanes
        m, n, k = self.m, self.n, self.k
        waste = np.ceil(m / h) * h / m * np.ceil(n / wide) * wide / n
        flops = 2 * m * n * k / PEAK * waste * (16 / lanes) ** 0.9
        latency = np.maximum(1, 10 / (h * w))
        loads = 0.5 + 0.9 * (h + w) / (h * w)
        spills = np.where(h * w + w + 1 > 30, 1.3, 1.0)
        panel = v["part"] * wide * 4
        far = np.where(panel < self.l1, 1.0, np.where(v["stage"] == 1, 1.15, 1.6))
        loops = 1 + 0.3 / v["unroll"] + 0.02 * v["unroll"] + 6 / v["part"]
        swept = np.where(v["order"] == 0, m / h, np.where(v["order"] == 1, n / wide, 6))
        memory = 4 * k * (n + m) * swept / self.line * np.where(v["copy"] == 1, 0.15, 0.4)
        packing = 4 * k * n / self.line * (v["stage"] + 0.5 * v["copy"])
        uneven = 1 + 0.1 * np.abs(np.log2(v["chunk"] / 8))
        seconds = flops * np.maximum(latency, loads) * spills * far * loops * uneven
        return np.where(self.legal(points), seconds + memory + packing + 1e-6, np.inf)

    def measured(self, points: np.ndarray) -> np.ndarray:
        """Seconds as a noisy machine has them; the same point always the same."""
        mixed = (np.asarray(points) * np.array([3, 7, 31, 101, 211, 401, 809, 1601, 3203])).sum(1)
        return self.cost(points) * np.exp(self.noise * np.sin(mixed * 12.9898 + self.m) * 1.4)

    @cached_property
    def best(self) -> float:
        """The lowest cost of all points."""
        every = np.indices(tuple(self.shape)).reshape(len(HOLES), -1).T
        return float(self.cost(every).min())

    def _values(self, points: np.ndarray) -> dict[str, np.ndarray]:
        columns = np.asarray(points, np.int64).T
        return {
            h.name: c if isinstance(h.choices[0], str) else np.asarray(h.choices)[c]
            for h, c in zip(HOLES, columns, strict=True)
        }


def spaces(count: int, seed: int, **processor: float) -> list[SyntheticSpace]:
    """Products of random sizes, no two alike."""
    rng = np.random.default_rng(seed)
    sizes = np.unique(rng.integers(64, 1024, (count, 3)), axis=0)
    return [SyntheticSpace(*map(int, s), **processor) for s in rng.permutation(sizes)]


def group(space: SyntheticSpace, count: int, seed: int, told: bool = False) -> Group:
    """Measurements of the start and of random points."""
    drawn = space.random(np.random.default_rng(seed), count)
    points = np.concatenate([space.start, drawn])
    machine = space.machine if told else space.machine[:0]
    return Group(
        str(space), space.features(points), space.roofline(points), space.measured(points),
        machine, default=0,
    )  # fmt: skip
