"""Tilewright: NumPy functions as native programs. The public names, nothing else."""

from importlib import import_module as _import_module

from tilewright import errors as errors
from tilewright import forks as _forks
from tilewright import lax as lax
from tilewright import nn as nn
from tilewright import numpy as numpy
from tilewright import random as random
from tilewright import scipy as scipy
from tilewright import staging as _staging
from tilewright import trees as tree
from tilewright.compile import Compiled as Compiled
from tilewright.compile import compile as compile
from tilewright.compile import run_graph as _run_graph
from tilewright.constants import constant as constant
from tilewright.control import associative_scan as associative_scan
from tilewright.control import cond as cond
from tilewright.control import fori_loop as fori_loop
from tilewright.control import map as map
from tilewright.control import scan as scan
from tilewright.control import switch as switch
from tilewright.control import while_loop as while_loop
from tilewright.options import Options as Options
from tilewright.runtime.threads import threads as threads
from tilewright.transforms.autodiff import checkpoint as checkpoint
from tilewright.transforms.autodiff import eval_shape as eval_shape
from tilewright.transforms.autodiff import grad as grad
from tilewright.transforms.autodiff import hessian as hessian
from tilewright.transforms.autodiff import jacfwd as jacfwd
from tilewright.transforms.autodiff import jacobian as jacobian
from tilewright.transforms.autodiff import jacrev as jacrev
from tilewright.transforms.autodiff import jvp as jvp
from tilewright.transforms.autodiff import linear_transpose as linear_transpose
from tilewright.transforms.autodiff import linearize as linearize
from tilewright.transforms.autodiff import make_graph as make_graph
from tilewright.transforms.autodiff import stop_gradient as stop_gradient
from tilewright.transforms.autodiff import value_and_grad as value_and_grad
from tilewright.transforms.autodiff import vjp as vjp
from tilewright.transforms.batching import vmap as vmap
from tilewright.transforms.custom_rules import custom_gradient as custom_gradient
from tilewright.transforms.custom_rules import custom_jvp as custom_jvp
from tilewright.transforms.custom_rules import custom_vjp as custom_vjp

jit = compile
remat = checkpoint

_staging.run_with(_run_graph)


def __getattr__(name: str) -> object:
    """The tuner, and pictures of what it did, are loaded when they are first asked for."""
    if name in ("bench", "tune"):
        with _forks.importing:
            from tilewright import tuning

        return getattr(tuning, name)
    if name == "viz":
        with _forks.importing:
            return _import_module("tilewright.viz")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
