"""The parameters of an epoch as structs that the kernels read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nomad_dask.backends.data import StepParams
from nomad_dask.backends.gpu.mesh_levels import padded_strides
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.mesh import Mesh

# Fixed-point charges, own and remote together, stay below this many bits.
_SUM_BITS = 61

FRAME = np.dtype(
    [
        ("origin", np.float32, 3),
        ("inverse", np.float32),
        ("upper", np.float32, 3),
        ("shape", np.int32, 3),
        ("stride", np.int64, 3),
        ("padded_stride", np.int64, 3),
        ("scale", np.float32),
        ("inverse_scale", np.float32),
    ],
    align=True,
)
"""`struct Frame` of the kernels: how map positions become mesh coordinates."""

NUMBERS = np.dtype(
    [
        ("n_total", np.float64),
        ("factor", np.float64),
        ("remote_z", np.float64),
        ("local_z", np.float64),
        ("share", np.float64),
        ("z_known", np.int32),
        ("attract", np.float32),
        ("rate", np.float32),
        ("momentum", np.float32),
        ("max_step_norm", np.float32),
    ],
    align=True,
)
"""`struct Numbers` of the kernels: scalars that change from epoch to epoch."""


def fixed_point_scale(charge: float) -> float:
    """Return the power of two by which charges are multiplied before rounding to integers.

    Parameters
    ----------
    charge : float
        Sum of all charges, own and remote: an upper bound for the charge of a node.
    """
    return 2.0 ** (_SUM_BITS - math.ceil(math.log2(max(charge, 1e-12))))


def make_frame(mesh: Mesh, scale: float) -> np.ndarray:
    """Return the `FRAME` (1,) of a mesh, for charges in fixed point at `scale`."""
    frame = np.zeros(1, FRAME)
    dim = len(mesh.shape)
    frame["origin"][0, :dim] = mesh.origin
    frame["inverse"] = np.float32(1 / mesh.spacing)
    frame["upper"][0, :dim] = mesh.upper
    frame["shape"][0, :dim] = mesh.shape
    frame["stride"][0, :dim] = [math.prod(mesh.shape[a + 1 :]) for a in range(dim)]
    frame["padded_stride"][0, :dim] = padded_strides(mesh.shape)
    frame["scale"], frame["inverse_scale"] = scale, 1 / scale
    return frame


def make_numbers(step: StepParams) -> np.ndarray:
    """Return the `NUMBERS` (1,) of a step; the fields of the normalization are zero."""
    numbers = np.zeros(1, NUMBERS)
    numbers["attract"], numbers["rate"] = step.exaggeration, step.learning_rate
    numbers["momentum"], numbers["max_step_norm"] = step.momentum, step.max_step_norm
    return numbers


class EpochInputs:
    """A `FRAME` and a `NUMBERS` in one array on the device, so that one copy writes both.

    Captured launches read them from device memory, and so stay valid when they change.

    Parameters
    ----------
    runtime : Runtime

    Attributes
    ----------
    frame, numbers : array of uint8
        Views of the array.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._array = runtime.xp.zeros(FRAME.itemsize + NUMBERS.itemsize, np.uint8)
        self.frame: Any = self._array[: FRAME.itemsize]
        self.numbers: Any = self._array[FRAME.itemsize :]

    def write(self, numbers: np.ndarray, mesh: Mesh | None, charge: float) -> None:
        """Write the inputs of an epoch, without waiting for the copy.

        Parameters
        ----------
        numbers : ndarray of NUMBERS (1,)
        mesh : Mesh or None
            None if the epoch uses no mesh.
        charge : float
            Sum of all charges, own and remote.
        """
        frame = np.zeros(1, FRAME) if mesh is None else make_frame(mesh, fixed_point_scale(charge))
        self._runtime.upload_into(self._array, np.concatenate([frame.view(np.uint8), numbers.view(np.uint8)]))
