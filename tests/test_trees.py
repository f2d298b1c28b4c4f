"""Trees: taking apart, putting together, mapping, and what the structures say."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright import trees
from tilewright.errors import TreeMismatch

Point = namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Layer:
    weight: Any
    bias: Any = None
    name: str = dataclasses.field(default="layer", metadata={"static": True})

    def __post_init__(self) -> None:
        assert self.weight is not None, "rebuilding must not run constructors"


class Registered:
    def __init__(self, inner: Any, tag: str) -> None:
        self.inner, self.tag = inner, tag


trees.register(
    Registered,
    lambda r: ((r.inner,), r.tag),
    lambda tag, children: Registered(children[0], tag),
    lambda tag, n: [".inner"],
)

TREES = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Layer, inner.filter(lambda x: x is not None), inner)
    ),
    max_leaves=12,
)


@given(TREES)
def test_flatten_and_unflatten_are_inverse(tree: Any) -> None:
    leaves, structure = trees.flatten(tree)
    assert trees.unflatten(structure, leaves) == tree
    assert structure.num_leaves == len(leaves) == len(trees.paths(tree))
    again = trees.structure(trees.map(lambda leaf: 0, tree))
    assert again == structure
    assert hash(again) == hash(structure)


def test_order_of_leaves() -> None:
    tree = {"b": (1, [2, None]), "a": Point(3, Layer(4, {"z": 5, 1: 6}))}
    assert trees.leaves(tree) == [3, 4, 6, 5, 1, 2]
    assert trees.paths(tree) == [
        "['a'].x", "['a'].y.weight", "['a'].y.bias[1]", "['a'].y.bias['z']", "['b'][0]",
        "['b'][1][0]",
    ]  # fmt: skip


def test_structures_tell_containers_apart() -> None:
    different = [
        (1, 2), [1, 2], {"a": 1, "b": 2}, {"a": 1, "c": 2}, Point(1, 2), OrderedDict(a=1, b=2),
        defaultdict(int, a=1, b=2), Layer(1, 2), Layer(1, 2, "other"), Registered((1, 2), "t"),
        Registered((1, 2), "u"), (1, None, 2), ((1, 2),),
    ]  # fmt: skip
    structures = [trees.structure(t) for t in different]
    assert len(set(structures)) == len(different)
    for tree, structure in zip(different, structures, strict=True):
        assert type(trees.unflatten(structure, [1, 2])) is type(tree)
    assert str(structures[0]) == "(*, *)"
    assert str(structures[2]) == "{'a': *, 'b': *}"
    assert str(structures[4]) == "Point(x=*, y=*)"
    assert str(trees.structure([None, (1,)])) == "[None, (*,)]"


def test_static_fields_are_structure() -> None:
    layer = trees.map(lambda x: x * 2, Layer(3, 4, "first"))
    assert layer == Layer(6, 8, "first")


def test_map_meets_subtrees() -> None:
    assert trees.map(lambda a, b: (a, b), [1, {"k": 2}], ["x", {"k": [3, 4]}]) == [
        (1, "x"), {"k": (2, [3, 4])},
    ]  # fmt: skip
    assert trees.map_with_path(lambda path, a: f"{path}={a}", {"k": [1]}) == {"k": ["['k'][0]=1"]}
    with pytest.raises(TreeMismatch, match="differ in structure"):
        trees.map(lambda a, b: a, {"a": 1}, {"b": 1})
    with pytest.raises(TreeMismatch):
        trees.unflatten(trees.structure((1, 2)), [1])


def test_reduce_all_transpose_is_leaf() -> None:
    tree = {"a": 1, "b": (2, 3)}
    assert trees.reduce(lambda a, b: a + b, tree) == 6
    assert trees.reduce(lambda a, b: a + b, tree, 10) == 16
    assert trees.all(tree)
    assert not trees.all([True, {"k": 0}])
    assert trees.leaves(tree, is_leaf=lambda x: isinstance(x, tuple)) == [1, (2, 3)]
    outer, inner = trees.structure([0, 0]), trees.structure({"a": 0, "b": 0})
    turned = trees.transpose(outer, inner, [{"a": 1, "b": 2}, {"a": 3, "b": 4}])
    assert turned == {"a": [1, 3], "b": [2, 4]}


def test_depth_is_no_limit() -> None:
    tree: Any = 1
    for _ in range(20_000):
        tree = [tree]
    leaves, structure = trees.flatten(tree)
    assert leaves == [1]
    assert trees.leaves(trees.unflatten(structure, [2])) == [2]
    assert str(structure).count("[") == 20_000


def test_optax_states_are_trees() -> None:
    params = {"w": np.ones(3), "b": np.zeros(2)}
    state = optax.adam(1e-3).init(params)
    leaves, structure = trees.flatten(state)
    assert len(leaves) == 5
    rebuilt = trees.unflatten(structure, leaves)
    assert type(rebuilt) is type(state)
    assert type(rebuilt[0]) is type(state[0])
