"""The learned judge of schedules: what the roofline estimates, corrected by a small network.

Knows a multilayer perceptron on raw NumPy arrays, how features are scaled for it, and how it is
stored. Refuses to know how it is trained (`training`), which candidates there are (a search space
says, `Space`) and how code is made: what compiles a function is a parameter, since the compiler
stands above this package and may ask it for schedules.

A prediction is the logarithm of seconds: log of the analytical estimate, plus a correction. A
network of which nothing is known yet corrects nothing, and the roofline decides alone.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from tilewright import forks
from tilewright.errors import TilewrightError
from tilewright.options import show
from tilewright.target import Target

Array = np.ndarray[Any, Any]
Params = dict[str, Array]

CLIP: Final = 6.0
"""Standard deviations beyond which a feature is as far out as can be: what the network has never
seen must not take it anywhere."""
SIZES: Final = (64, 512, 4096)
"""Rows of the batches that `infer` is compiled for: rows are cut into the largest that they fill,
and what is left is padded to the smallest."""
LAYERS: Final = ("w1", "b1", "w2", "b2", "w3", "b3")
MOST_BYTES: Final = 1 << 20
"""Bytes of a stored model."""
MOST_NAMES: Final = 1024
"""Features of a stored model."""


class BadModel(TilewrightError, ValueError):
    """A stored model is damaged, not ours, or made for other features.

    Fails: `Model.parsed(b"")`.
    Way out: rebuild the weights with `make train-cost-model`, or remove the file: without a model
    the heuristic schedules.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the stored cost model cannot be used: {why}",
            "Rebuild it with `make train-cost-model`, or remove it: the heuristic schedules then.",
        )


class Space(Protocol):
    """What judging and searching ask of a search space. A point is a row of int64 indices, one
    for each hole, into the hole's choices."""

    @property
    def holes(self) -> Sequence[Any]:
        """Each with its `name` and its `choices`, a tuple of numbers or strings."""

    def legal(self, points: Array) -> Array:
        """Which of the int64[n, H] points are schedules: bool[n]."""

    def random(self, rng: np.random.Generator, n: int) -> Array:
        """Distinct legal points: int64[m, H], m <= n."""

    def features(self, points: Array) -> Array:
        """float32[n, F]."""

    def roofline(self, points: Array) -> Array:
        """The analytical estimate in seconds, positive: float64[n]."""


# -- the network -----------------------------------------------------------------------------------


def init(rng: np.random.Generator, features: int, width: int) -> Params:
    """Weights of a network of two hidden layers: normal, of variance 1 / fan-in, and zero in the
    last layer, so that it corrects nothing until it is trained. All float32."""

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) / math.sqrt(shape[0])).astype(np.float32)

    def zeros(*shape: int) -> Array:
        return np.zeros(shape, np.float32)

    return {
        "w1": normal(features, width), "b1": zeros(width),
        "w2": normal(width, width), "b2": zeros(width),
        "w3": zeros(width), "b3": zeros(),
    }  # fmt: skip


def silu(z: Array) -> Array:
    """z times its logistic function (Elfwing et al. 2018); by tanh, which cannot overflow."""
    half = np.float32(0.5)
    return half * z * (1 + np.tanh(half * z))


def correction(params: Params, x: Array) -> Array:
    """What the network adds to the logarithm of the estimate: standardised x[n, F] to [n]."""
    h = silu(x @ params["w1"] + params["b1"])
    h = silu(h @ params["w2"] + params["b2"])
    return h @ params["w3"] + params["b3"]


def standardised(x: Array, mean: Array, scale: Array) -> Array:
    """Features as the network reads them, float32[n, F]: in deviations from the mean, bounded."""
    return np.clip((x - mean) / scale, -np.float32(CLIP), np.float32(CLIP))


def infer(params: Params, mean: Array, scale: Array, x: Array) -> Array:
    """The correction of raw features x[n, F]: the one function of a model that is compiled."""
    return correction(params, standardised(x, mean, scale))


Infer = Callable[[Params, Array, Array, Array], Array]
"""`infer`, or what the compiler made of it."""


def batched(run: Infer, params: Params, mean: Array, scale: Array, x: Array) -> Array:
    """`run` on any number of rows, float32[n]: in batches of a few sizes, for each of which there
    is one program; NumPy needs none."""
    if run is infer:
        return infer(params, mean, scale, x)
    result = np.empty(len(x), np.float32)
    start = 0
    while start < len(x):
        size = next((s for s in reversed(SIZES) if s <= len(x) - start), SIZES[0])
        batch = rows = x[start : start + size]
        if len(rows) < size:
            batch = np.zeros((size, x.shape[1]), np.float32)
            batch[: len(rows)] = rows
        result[start : start + len(rows)] = run(params, mean, scale, batch)[: len(rows)]
        start += size
    return result


# -- the model -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with all that its predictions depend on.

    `features` are the names of a space's features and `version` their definition's; `machine` names
    the numbers that describe a machine, which follow the features, for a network that is told them
    (`on` settles them). `mean` and `scale`, float32[F + M], are of all of them. `held_out` is the
    top-1 score that it had on kernels it was not trained on, and the heuristic's on the same ones;
    None if nobody measured. `trained_on` names the machines it learned from (`machine_name`).
    """

    params: Params
    features: tuple[str, ...]
    version: int
    mean: Array
    scale: Array
    machine: tuple[str, ...] = ()
    held_out: tuple[float, float] | None = None
    trained_on: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether it is known to choose better than the heuristic."""
        return self.held_out is not None and self.held_out[0] > self.held_out[1]

    @staticmethod
    def blank(features: Sequence[str], version: int, width: int = 64, seed: int = 0) -> Model:
        """The model that knows nothing: its features are taken as they are, and the roofline
        decides until it is fine-tuned."""
        rng, n = np.random.default_rng(seed), len(features)
        zeros, ones = np.zeros(n, np.float32), np.ones(n, np.float32)
        return Model(init(rng, n, width), tuple(features), version, zeros, ones)

    def predict(self, space: Space, points: Array, run: Infer = infer) -> Array:
        """Log seconds, float64[n], of the schedules at int64[n, H] points. `run` is `infer` or its
        compiled program.

        **Raises:** `ValueError` if the model still waits for a machine's description.
        """
        return self.judge(space.features(points), space.roofline(points), run)

    def judge(self, features: Array, roofline: Array, run: Infer = infer) -> Array:
        """Log seconds, float64[n], from float32[n, F] features and float64[n] seconds."""
        if self.machine:
            raise ValueError(f"the model needs a machine's {', '.join(self.machine)}: see Model.on")
        if features.shape[1] != len(self.features):
            raise ValueError(f"{features.shape[1]} features for a model of {len(self.features)}")
        x = np.asarray(features, np.float32)
        return np.log(roofline) + batched(run, self.params, self.mean, self.scale, x)

    def on(self, machine: Mapping[str, float]) -> Model:
        """The model of one machine, whose description becomes part of the first layer's bias: it
        costs nothing when candidates are judged.

        **Raises:** `KeyError` naming what the description lacks.
        """
        if not self.machine:
            return self
        n = len(self.features)
        told = np.array([machine[name] for name in self.machine], np.float32)
        told = standardised(told, self.mean[n:], self.scale[n:])
        w1 = self.params["w1"]
        params = {**self.params, "w1": w1[:n].copy(), "b1": self.params["b1"] + told @ w1[n:]}
        return replace(self, params=params, mean=self.mean[:n], scale=self.scale[:n], machine=())

    @forks.cached_property
    def content(self) -> bytes:
        """The model as the bytes of an .npz file: the same ones for the same model, for members are
        not compressed and have no dates."""
        held_out = () if self.held_out is None else self.held_out
        arrays = {
            **{name: np.asarray(self.params[name], "<f4") for name in LAYERS},
            "mean": np.asarray(self.mean, "<f4"),
            "scale": np.asarray(self.scale, "<f4"),
            "version": np.array(self.version, "<i8"),
            "held_out": np.array(held_out, "<f8"),
            "features": _names(self.features),
            "machine": _names(self.machine),
            "trained_on": _names(self.trained_on),
        }
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, a in arrays.items():
                member = io.BytesIO()
                np.lib.format.write_array(member, a, version=(1, 0), allow_pickle=False)
                info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16
                archive.writestr(info, member.getvalue())
        return file.getvalue()

    @staticmethod
    def parsed(content: bytes) -> Model:
        """The model whose `content` this is. Nothing in it is trusted.

        **Raises:** `BadModel`.
        """
        arrays = _members(content)
        model = Model(
            {name: arrays[name] for name in LAYERS},
            _strings(arrays["features"]),
            int(arrays["version"]),
            arrays["mean"],
            arrays["scale"],
            _strings(arrays["machine"]),
            tuple(arrays["held_out"].tolist()) or None,  # type: ignore[arg-type]
            _strings(arrays["trained_on"]),
        )
        _check(model)
        return model

    def save(self, path: Path) -> None:
        """Write the model's `content`; readers see the whole file or the one before."""
        descriptor, unfinished = tempfile.mkstemp(".part", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(self.content)
            os.chmod(unfinished, 0o644)
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise


def machine_name(target: Target) -> str:
    """The kind of machine that weights know: processors of one name behave alike."""
    return f"{target.cpu} {target.vector_bytes}"


def load(path: Path, features: Sequence[str], version: int) -> Model | None:
    """The stored model of these features, if there is one and it beats the heuristic;
    TILEWRIGHT_SHOW=tune says why not."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        model = Model.parsed(content)
    except OSError as e:
        show("tune", f"{path}: {e.strerror}")
        return None
    except BadModel as e:
        show("tune", f"{path}: {e.what}")
        return None
    if (model.features, model.version) != (tuple(features), version):
        show("tune", f"{path}: features of version {model.version}, these are version {version}")
    elif not model.trusted:
        show("tune", f"{path}: not known to beat the heuristic on kernels it has not seen")
    else:
        return model
    return None


# -- what is stored --------------------------------------------------------------------------------

_KINDS: Final = {
    **dict.fromkeys((*LAYERS, "mean", "scale"), "<f4"),
    "version": "<i8",
    "held_out": "<f8",
    "features": "<U",
    "machine": "<U",
    "trained_on": "<U",
}
"""The members of the file, and of which dtype each is."""
_RANKS: Final = {"w1": 2, "w2": 2, "b3": 0, "version": 0}
"""Dimensions; one where nothing is said."""


def _names(names: Sequence[str]) -> Array:
    return np.array(names, "<U1" if not names else None)


def _strings(names: Array) -> tuple[str, ...]:
    try:
        return tuple(names.tolist())
    except ValueError as e:
        raise BadModel(f"a name that is no text ({e})") from None


def _members(content: bytes) -> dict[str, Array]:
    """The arrays of the file; their sizes are settled by the file's, before any is made."""
    if len(content) > MOST_BYTES:
        raise BadModel(f"more than {MOST_BYTES} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if [m.filename for m in members] != [f"{name}.npy" for name in _KINDS]:
                raise BadModel("other members than a model's")
            if any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise BadModel("compressed members")
            return {n: _array(n, archive.read(m)) for n, m in zip(_KINDS, members, strict=True)}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as e:
        raise BadModel(f"not a whole file ({e})") from None


def _array(name: str, member: bytes) -> Array:
    """One array, with the dtype and the number of dimensions that its name asks for."""
    file = io.BytesIO(member)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise BadModel(f"{name} in a format of another version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as e:
        raise BadModel(f"{name}: {e}") from None
    data = member[file.tell() :]
    kind = _KINDS[name]
    right = dtype.str == kind or (kind == "<U" and dtype.str.startswith("<U") and dtype.itemsize)
    if not right or fortran or len(shape) != _RANKS.get(name, 1) or min(shape, default=0) < 0:
        raise BadModel(f"{name} is {dtype.str}{list(shape)}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise BadModel(f"{name} has {len(data)} bytes for {dtype.str}{list(shape)}")
    return np.frombuffer(data, dtype).reshape(shape)


def _check(m: Model) -> None:
    """Whether the arrays are one model's. **Raises:** `BadModel`."""
    inputs, width = len(m.features) + len(m.machine), m.params["b1"].size
    shapes = [(inputs, width), (width,), (width, width), (width,), (width,), ()]
    found = [m.params[name].shape for name in LAYERS]
    if not 0 < inputs <= MOST_NAMES or found != shapes:
        raise BadModel(f"layers of {found} for {inputs} inputs")
    if {m.mean.shape, m.scale.shape} != {(inputs,)}:
        raise BadModel(f"{m.mean.shape} means and {m.scale.shape} scales for {inputs} inputs")
    numbers = [*m.params.values(), m.mean, m.scale, np.array(m.held_out or ())]
    if not all(np.isfinite(a).all() for a in numbers) or not (m.scale > 0).all():
        raise BadModel("numbers that are not finite, or scales that are not positive")
    if m.held_out is not None and len(m.held_out) != 2:
        raise BadModel(f"{len(m.held_out)} scores instead of two")
