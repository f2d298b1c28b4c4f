"""The instructions of a nest of products, in x86's language.

Knows which vector registers hold sums and factors, how pointers move from round to round, and in
which order factors are read. Refuses to know where sums, pointers and constants come from
(`nests`): to the text they are operands of one instruction of LLVM's, by number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Final, NamedTuple, TypeAlias

from tilewright.codegen import fetching, multiply_add
from tilewright.codegen.llvm_values import Operand, constant
from tilewright.expr import Axis, literal

SPREADS: Final = {4: "vbroadcastss", 8: "vbroadcastsd"}
"""What reads one element of so many bytes into all lanes."""
MOVES: Final = {4: "vmovups", 8: "vmovupd"}
COPIES: Final = {4: "vmovaps", 8: "vmovapd"}
PICKS: Final = {4: ("vpermps", "vpermt2ps"), 8: ("vpermpd", "vpermt2pd")}
"""What puts the lanes of one vector, and of two, in an order."""
MANY, FEW = 32, 16
"""Vector registers of machines with and without AVX-512."""
NUMBERS: Final = 10
"""Registers for pointers and counters: the others are LLVM's, for what surrounds the nest."""
FIRST_LABEL: Final = 2
"""Labels are numbers, and "0b" and "1b" could be taken for numbers in base two."""
END_LABEL: Final = 9
ALIGN: Final = 5


class Place(NamedTuple):
    """So many bytes from a pointer: one element for all lanes (`lanes` 0), or the first `lanes`,
    of which only those in `bits` are touched, if it is not 0."""

    pointer: int
    displacement: int
    lanes: int
    bits: int = 0


class Given(NamedTuple):
    """What all lanes have of an element that is read before the nest: the neighbouring nests of a
    window multiply by the same."""

    number: int


class Picked(NamedTuple):
    """Every so many elements of a row: of vectors, shuffled (`picks.Pick`), so that only the lanes
    in `bits` are not zero, if it is not 0; and a lane that is read for itself."""

    vectors: tuple[Place, ...]
    order: tuple[int, ...]
    bits: int
    beside: Place | None


Factor: TypeAlias = "Place | Given | Picked"


class Product(NamedTuple):
    """What is added to a sum."""

    total: int
    first: Factor
    second: Factor


class Result(NamedTuple):
    """Where a sum goes."""

    total: int
    place: Place


class Fetch(NamedTuple):
    """So many lines that are wanted in the second level cache."""

    place: Place
    lines: int


@dataclass
class Loop:
    """So many rounds over an axis (None: as many as the program says)."""

    axis: Axis
    rounds: int | None
    items: Items = field(default_factory=list)


Items: TypeAlias = "list[Product | Result | Fetch | Loop]"


@dataclass(frozen=True)
class Work:
    """What a nest does: `items`, by an instruction of this name whose factors may change places if
    it `swaps` them. The sums begin as these operands; `steps` are the bytes that the nest's axes,
    by serial, move each pointer; what is read by way of some is fetched so many bytes `ahead`. So
    many factors are `given` in registers. A loop's rounds are `counted` by an operand, or no
    loop's; sums may be `stored`, and nobody wants them then."""

    items: Items
    sums: Sequence[Operand]
    steps: Sequence[dict[int, int]]
    ahead: Mapping[int, int]
    instruction: str
    swaps: bool
    given: int
    counted: bool
    stored: bool
    wide: bool


class Text:
    """The instructions of a nest. Sums are in the first vector registers, factors in those behind;
    pointers and counters are where LLVM wants: operands, numbered behind the sums."""

    def __init__(self, work: Work) -> None:
        self.work, self.wide = work, work.wide
        self.dtype, self.lanes = work.sums[0].dtype, work.sums[0].lanes
        self.letter = "xyz"[multiply_add.WIDTHS.index(self.lanes * self.dtype.itemsize)]
        self.counters = max(map(_depth, work.items))
        self.fixed = not self.counters and work.stored and all(map(is_zero, work.sums))
        """Whether all results are stored and pointers stay where they are: nothing leaves it."""
        self.late = [0] * len(work.steps)
        """How many bytes each pointer has still to be moved."""
        self.pointer = 0 if self.fixed else len(work.sums)
        self.counter = self.pointer + len(work.steps)
        tied = sum(not is_zero(x) for x in work.sums) + work.counted
        self.given = self.counter
        if not self.fixed:
            self.given += self.counters + tied + len(work.steps)
        """The first of the operands that are only read."""
        self.temporaries = 0
        self.constants: dict[int | tuple[int, ...], int] = {}
        """The numbers of the operands that are masks of such bits, and orders of lanes."""
        self.lines: list[str] = []
        self.items(work.items, 0)
        self.lines[:0] = self.beginning()
        masks = sum(isinstance(x, int) for x in self.constants)
        others = work.given + len(self.constants) - masks
        registers = len(work.sums) + self.temporaries + others
        enough = registers <= (MANY if self.wide else FEW) and masks < 7
        self.fits = enough and len(work.steps) + self.counters <= NUMBERS

    def beginning(self) -> list[str]:
        """Sums from zero. (What clears 16 bytes clears those above, too.)"""
        clear = "vpxord" if self.wide else "vxorps"
        zeros = [i for i, x in enumerate(self.work.sums) if is_zero(x)]
        registers = [f"%xmm{i}" for i in zeros]
        return [
            f"{'vxorps' if i < FEW else clear} {x}, {x}, {x}"
            for i, x in zip(zeros, registers, strict=True)
        ]

    def vector(self, k: int) -> str:
        return f"{self.letter}mm{k}"

    def items(self, items: Items, depth: int) -> None:
        for kind, found in groupby(items, type):
            if kind is Product:
                self.run([*found])  # type: ignore[arg-type]
                continue
            for x in found:
                if isinstance(x, Loop):
                    self.loop(x, depth)
                elif isinstance(x, Result):
                    self.store(x)
                elif isinstance(x, Fetch):
                    self.fetch(x)

    def loop(self, x: Loop, depth: int) -> None:
        counter, label = self.counter + depth, FIRST_LABEL + depth
        self.move()
        if x.rounds is None:
            self.lines += [f"testq ${counter}, ${counter}", f"jle {END_LABEL}f"]
        else:
            self.lines.append(f"movl $${x.rounds}, ${{{counter}:k}}")
        self.lines += [f".p2align {ALIGN}", f"{label}:"]
        self.items(x.items, depth + 1)
        self.step(x.axis, 1)
        self.move()
        self.lines += [f"decq ${counter}", f"jne {label}b"]
        if x.rounds is None:
            self.lines.append(f"{END_LABEL}:")
        else:
            self.step(x.axis, -x.rounds)

    def step(self, axis: Axis, rounds: int) -> None:
        for k, steps in enumerate(self.work.steps):
            self.late[k] += rounds * steps.get(axis.serial, 0)

    def move(self) -> None:
        """Bring all pointers to where they should be."""
        for k, by in enumerate(self.late):
            if by:
                self.lines.append(f"addq $${by}, ${self.pointer + k}")
                self.late[k] = 0

    def run(self, products: Sequence[Product]) -> None:
        """Products one after the other. A factor stays in a register from its first use to its
        last; one that has a single use is read by the instruction, if it can be."""
        self.move()
        if any(isinstance(f, Picked) for x in products for f in (x.first, x.second)):
            products = _by_row(products)
        own, fetched = Registers(self, products), set[tuple[int, int]]()
        for x in products:
            a, b = x.first, x.second
            if self.work.swaps and own.left[a] == 1 and self.is_operand(a) and a not in own.held:
                a, b = b, a
            there = b not in own.held and own.left[b] == 1 and self.is_operand(b)
            own.hold(a)
            if not there:
                own.hold(b)
            second = self.operand(b) if there else own.name(b)
            others = f"{own.name(a)}, %{self.vector(x.total)}"
            self.lines.append(f"{self.work.instruction} {second}, {others}")
            for f in (a, b):
                self.fetch_ahead(f, fetched)
            own.drop(x.first)
            own.drop(x.second)

    def operand(self, f: Factor) -> str:
        """A factor in memory, as the instruction reads it."""
        assert isinstance(f, Place)
        return self.place(f) + ("" if f.lanes else f"{{1to{self.lanes}}}")

    def fresh(self) -> int:
        """A register more for factors."""
        self.temporaries += 1
        return len(self.work.sums) + self.temporaries - 1

    def is_operand(self, f: Factor) -> bool:
        """Whether the instruction can read a factor from memory itself."""
        if not isinstance(f, Place):
            return False
        return (f.lanes == self.lanes and not f.bits) or (not f.lanes and self.wide)

    def place(self, f: Place) -> str:
        return f"{f.displacement or ''}(${self.pointer + f.pointer})"

    def load(self, f: Place, register: int) -> None:
        size, mask = self.dtype.itemsize, self.mask(f)
        move = MOVES[size]
        if not f.lanes:
            move = "vmovddup" if size == 8 and self.lanes == 2 else SPREADS[size]
        zeros = " {z}" if mask else ""
        self.lines.append(f"{move} {self.place(f)}, %{self.vector(register)}{mask}{zeros}")

    def store(self, x: Result) -> None:
        move, place = MOVES[self.dtype.itemsize], self.place(x.place)
        self.lines.append(f"{move} %{self.vector(x.total)}, {place}{self.mask(x.place)}")

    def fetch(self, x: Fetch) -> None:
        """Lines from a place on. (Those beyond the matrix may be nowhere: that is no error.)"""
        for k in range(x.lines):
            place = x.place._replace(displacement=fetching.LINE_BYTES * k)
            self.lines.append(f"prefetcht1 {self.place(place)}")

    def fetch_ahead(self, f: Factor, fetched: set[tuple[int, int]]) -> None:
        """Fetch what is as far behind a factor as streams are fetched ahead, if it is of one and
        that line was not `fetched` yet."""
        if isinstance(f, Place) and f.lanes and f.pointer in self.work.ahead:
            there = f.displacement + self.work.ahead[f.pointer]
            line = f.pointer, there // fetching.LINE_BYTES
            if line not in fetched:
                fetched.add(line)
                self.lines.append(f"prefetcht0 {self.place(f._replace(displacement=there))}")

    def mask(self, f: Place) -> str:
        """The mask of the lanes there are, if some are none."""
        if f.lanes in (0, self.lanes) and not f.bits:
            return ""
        return f" {{${self.constant(f.bits or (1 << f.lanes) - 1)}}}"

    def constant(self, x: int | tuple[int, ...]) -> int:
        """The number of an operand that is a mask or an order."""
        first = self.given + self.work.given
        return self.constants.setdefault(x, first + len(self.constants))


class Registers:
    """The registers that factors of a run of products are in, and how often each is still used."""

    def __init__(self, text: Text, products: Sequence[Product]) -> None:
        self.text = text
        self.left: Counter[Factor] = Counter([f for x in products for f in (x.first, x.second)])
        for f in [*self.left]:
            if isinstance(f, Picked):
                self.left.update(f.vectors)
        self.held: dict[Factor, int] = {}
        self.free: list[int] = []

    def name(self, f: Factor) -> str:
        text = self.text
        given = isinstance(f, Given)
        return f"${text.given + f.number}" if given else f"%{text.vector(self.held[f])}"  # type: ignore[union-attr]

    def hold(self, f: Factor) -> None:
        """Have a factor in a register."""
        if f in self.held or isinstance(f, Given):
            return
        if isinstance(f, Picked):
            self.pick(f)
        else:
            self.held[f] = self.fresh()
            self.text.load(f, self.held[f])

    def fresh(self) -> int:
        return self.free.pop() if self.free else self.text.fresh()

    def drop(self, f: Factor) -> None:
        """A use less."""
        self.left[f] -= 1
        if not self.left[f] and f in self.held:
            self.free.append(self.held.pop(f))

    def pick(self, f: Picked) -> None:
        """Pick from a vector, or from it and another, and read the lane that is in neither."""
        text, (first, *others), size = self.text, f.vectors, self.text.dtype.itemsize
        one, two = PICKS[size]
        order = f"${text.constant(f.order)}"
        zeros = f" {{${text.constant(f.bits)}}} {{z}}" if f.bits else ""
        sources = []
        for v in others or [first]:
            if v not in self.held and self.left[v] == 1 and text.is_operand(v):
                sources.append(text.place(v))
            else:
                self.hold(v)
                sources.append(self.name(v))
        if others:
            self.hold(first)
            if self.left[first] == 1:  # it is overwritten
                self.held[f] = self.held.pop(first)
            else:
                self.held[f] = self.fresh()
                text.lines.append(f"{COPIES[size]} {self.name(first)}, {self.name(f)}")
            text.lines.append(f"{two} {sources[0]}, {order}, {self.name(f)}{zeros}")
        else:
            self.held[f] = self.fresh()
            text.lines.append(f"{one} {sources[0]}, {order}, {self.name(f)}{zeros}")
        for v in f.vectors:
            self.drop(v)
        if f.beside is not None:
            only = text.mask(f.beside)
            text.lines.append(f"{SPREADS[size]} {text.place(f.beside)}, {self.name(f)}{only}")


def _by_row(products: Sequence[Product]) -> list[Product]:
    """Products whose factors are picked, so that all picked from a row are made one after the
    other. The first half of the sums takes turns with the second, so that there are always two
    that do not wait for each other; each sum gets its products in the order they have."""
    queues: dict[int, list[Product]] = {}
    for x in reversed(products):
        queues.setdefault(x.total, []).append(x)
    totals, half = sorted(queues), len(queues) // 2
    ways = [_rows([queues[k] for k in part]) for part in (totals[:half], totals[half:])]
    return [x for turn in zip_longest(*ways) for x in turn if x is not None]


def _rows(queues: Sequence[list[Product]]) -> list[Product]:
    """The products in the order of what they are picked from; of a queue the last is the first."""
    ordered: list[Product] = []
    while heads := [q for q in queues if q]:
        ordered.append(min(heads, key=lambda q: _row(q[-1])).pop())
    return ordered


def _row(x: Product) -> tuple[int, ...]:
    """Where the row is that a product's factor is picked from, and what is picked."""
    found = next((f for f in (x.first, x.second) if isinstance(f, Picked)), None)
    return () if found is None else (*found.vectors[0][:2], *found.order)


def is_zero(x: Operand) -> bool:
    """Whether a sum begins with nothing."""
    return x.text == constant(literal(0, x.dtype), x.lanes).text


def _depth(x: Product | Result | Fetch | Loop) -> int:
    """Loops inside one another."""
    return 1 + max(map(_depth, x.items), default=0) if isinstance(x, Loop) else 0
