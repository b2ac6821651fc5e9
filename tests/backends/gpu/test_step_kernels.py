"""Kernels along the edges, run on the host, against the CPU's kernels and sums in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from nomad_dask.backends.cpu.force_kernels import ConditionalEdges, Edges, StepFactors, force_kernels
from nomad_dask.backends.cpu.mesh_kernels import mesh_frame, mesh_kernels
from nomad_dask.backends.gpu.device_edges import DeviceEdges, upload_values
from nomad_dask.backends.gpu.epoch_inputs import NUMBERS, make_frame
from nomad_dask.backends.gpu.mesh_levels import padded_shape
from nomad_dask.backends.gpu.runtime import count_blocks
from nomad_dask.backends.mesh import Mesh
from tests.helpers.host_runtime import HostRuntime

LANES = 8
N_PATCHES = 9
PLAIN = {
    "n_total": 3000.0,
    "factor": 2.0,
    "share": 5.0,
    "attract": 1.5,
    "rate": 0.3,
    "momentum": 0.6,
    "max_step_norm": 9.0,
}


@dataclass
class Case:
    """A random shard: CSR of the edges and of the cross-shard edges, and a map."""

    points: np.ndarray
    velocity: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    conditional_p: np.ndarray
    cross_indptr: np.ndarray
    cross_patches: np.ndarray
    cross_weights: np.ndarray
    moments: np.ndarray
    repulsion: np.ndarray
    z: np.ndarray
    levels: np.ndarray | None = None
    codes: np.ndarray | None = None
    csr: tuple[np.ndarray, ...] = field(init=False)
    uploaded: tuple[np.ndarray | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.csr = (
            self.indptr, self.indices, self.weights, np.empty(0, np.uint8), self.moments,
            self.cross_indptr, self.cross_patches, self.cross_weights,
        )  # fmt: skip
        weights = self.weights if self.levels is None else self.levels
        edges = DeviceEdges.upload(self.indptr, self.indices, weights, self.codes, HostRuntime())
        cross = DeviceEdges.upload(self.cross_indptr, self.cross_patches, self.cross_weights, None, HostRuntime())
        self.uploaded = (*edges, *cross[:3])

    @property
    def dim(self) -> int:
        return self.points.shape[1]


def case_of(dim: int, degrees: np.ndarray, far_degrees: np.ndarray, seed: int = 0, with_codes: bool = False) -> Case:
    rng = np.random.default_rng(seed)
    n = len(degrees)
    f32 = np.float32
    indptr, cross_indptr = (np.concatenate([[0], np.cumsum(d)]).astype(np.int64) for d in (degrees, far_degrees))
    weights = rng.uniform(0.01, 1, indptr[-1]).astype(f32)
    levels, codes = None, None
    if with_codes:
        levels = np.geomspace(0.01, 1, 256).astype(f32)
        codes = rng.integers(0, 256, len(weights)).astype(np.uint8)
        weights = levels[codes]
    moments = np.hstack([rng.normal(0, 6, (N_PATCHES, dim)), rng.uniform(0, 4, (N_PATCHES, 1))])
    return Case(
        points=rng.normal(0, 4, (n, dim)).astype(f32),
        velocity=rng.normal(0, 0.5, (n, dim)).astype(f32),
        indptr=indptr,
        indices=rng.integers(0, n, indptr[-1]).astype(np.int32),
        weights=weights,
        conditional_p=(weights * rng.uniform(0, 1, len(weights))).astype(f32),
        cross_indptr=cross_indptr,
        cross_patches=rng.integers(0, N_PATCHES, cross_indptr[-1]).astype(np.int32),
        cross_weights=rng.uniform(0.01, 1, cross_indptr[-1]).astype(f32),
        moments=moments.astype(f32),
        repulsion=rng.normal(0, 1, (n, dim)).astype(f32),
        z=rng.uniform(0, 30, n).astype(f32) * (rng.random(n) > 0.1),  # some are 0
        levels=levels,
        codes=codes,
    )


@pytest.fixture(params=[(2, False), (3, False), (2, True), (3, True)], ids=["2-D", "3-D", "2-D codes", "3-D codes"])
def case(request: pytest.FixtureRequest) -> Case:
    """Rows with no edges, with odd and even numbers of edges, with more edges than lanes, and a hub."""
    rng = np.random.default_rng(7)
    degrees = rng.integers(0, 50, 333)
    degrees[:5] = [0, 1, 2, 500, 33]
    dim, with_codes = request.param
    return case_of(dim, degrees, rng.integers(0, 4, 333) * rng.integers(0, 2, 333), with_codes=with_codes)


def numbers_of(**values: float) -> np.ndarray:
    numbers = np.zeros(1, NUMBERS)
    for name, value in (PLAIN | values).items():
        numbers[name] = value
    return numbers


def launch(case: Case, kernel: str, *args: Any, n_items: int | None = None, seed: int = 0) -> None:
    HostRuntime(seed).launch(kernel, case.dim, LANES * len(case.points) if n_items is None else n_items, *args)


def move(
    case: Case, numbers: np.ndarray, z: float | None, n_items: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    moved, velocity = np.full((2, *case.points.shape), np.nan, np.float32)
    launch(
        case, "move", case.points, case.velocity, np.int64(len(case.points)), case.repulsion, *case.uploaded,
        case.moments, numbers, None if z is None else np.array([z]), moved, velocity, n_items=n_items, seed=seed,
    )  # fmt: skip
    return moved, velocity


def step(
    case: Case, frame: np.ndarray, potential: np.ndarray, numbers: np.ndarray, z: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    moved = np.full(case.points.shape, np.nan, np.float32)
    velocity = case.velocity.copy()  # written in place
    launch(
        case, "step", case.points, velocity, np.int64(len(case.points)), frame, potential, *case.uploaded,
        case.moments, numbers, np.array([z]), moved, velocity, seed=seed,
    )  # fmt: skip
    return moved, velocity


def exact_step(case: Case, repulsion: np.ndarray, numbers: np.ndarray, repel: float) -> tuple[np.ndarray, np.ndarray]:
    """The formulas in float64, edge by edge."""
    y, c = case.points.astype(np.float64), numbers[0]
    pull = np.zeros_like(y)
    for i in range(len(y)):
        for e in range(case.indptr[i], case.indptr[i + 1]):
            d = y[i] - y[case.indices[e]]
            pull[i] += case.weights[e] * d / (1 + d @ d)
        for e in range(case.cross_indptr[i], case.cross_indptr[i + 1]):
            *mean, variance = case.moments[case.cross_patches[e]].astype(np.float64)
            d = y[i] - mean
            pull[i] += case.cross_weights[e] * d / (1 + d @ d + variance)
    force = 2 * (repel * repulsion.astype(np.float64) - c["attract"] * pull)
    v = c["momentum"] * case.velocity.astype(np.float64) + c["rate"] * force
    length = np.linalg.norm(v, axis=1, keepdims=True)
    v *= np.minimum(1, c["max_step_norm"] / np.maximum(length, 1e-300))
    return y + v, v


def cpu_step(case: Case, repulsion: np.ndarray, numbers: np.ndarray, repel: float) -> tuple[np.ndarray, np.ndarray]:
    moved, velocity = np.empty_like(case.points), case.velocity.copy()
    factors = (numbers[0][name] for name in ("attract", "rate", "momentum", "max_step_norm"))
    force_kernels(case.dim, with_codes=False).move(
        case.points, velocity, repulsion, 0, len(moved), Edges(*case.csr), StepFactors(np.float32(repel), *factors),
        moved,
    )  # fmt: skip
    return moved, velocity


def assert_same_step(got: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    for there, here in zip(got, wanted, strict=True):
        np.testing.assert_allclose(there, here, rtol=2e-5, atol=2e-5)


def test_move_equals_the_step_of_the_cpu(case: Case) -> None:
    numbers = numbers_of()
    repel = 2 * 3000 / (400.0 * 5)
    got = move(case, numbers, 400.0)
    assert_same_step(got, cpu_step(case, case.repulsion, numbers, repel))
    assert_same_step(got, exact_step(case, case.repulsion, numbers, repel))


@pytest.mark.parametrize(
    ("numbers", "z", "repel"),
    [
        ({"z_known": 0}, 400.0, 2 * 3000 / (400 * 5)),
        ({"z_known": 1, "remote_z": 900.0, "local_z": 300.0}, 400.0, 2 * 3000 / (400 + 900 * 400 / 300)),
        ({"z_known": 1, "remote_z": 0.0, "local_z": 300.0, "factor": 1.0}, 400.0, 3000 / 400),
        ({"z_known": 0, "n_total": 1e-12, "factor": 1.0}, 0.0, 1.0),  # held above 1e-12
        ({"n_total": 1.0, "factor": 0.7}, None, 0.7),
    ],
)
def test_factor_on_the_repulsion(numbers: dict[str, float], z: float | None, repel: float) -> None:
    case = case_of(2, np.array([3, 0, 2]), np.array([0, 1, 1]))
    given_numbers = numbers_of(**numbers)
    assert_same_step(move(case, given_numbers, z), exact_step(case, case.repulsion, given_numbers, repel))


@pytest.mark.parametrize("dim", [2, 3])
def test_steps_are_clipped(dim: int) -> None:
    case = case_of(dim, np.full(64, 6), np.zeros(64, np.int64))
    numbers = numbers_of(max_step_norm=3.0)
    moved, velocity = move(case, numbers, 400.0)
    free = np.linalg.norm(move(case, numbers_of(max_step_norm=1e9), 400.0)[1], axis=1)
    assert 0 < np.count_nonzero(free > 3) < 64
    np.testing.assert_allclose(np.linalg.norm(velocity, axis=1), np.minimum(free, 3), rtol=1e-5)
    assert_same_step((moved, velocity), exact_step(case, case.repulsion, numbers, 2 * 3000 / 2000))


@pytest.mark.parametrize("dim", [2, 3])
def test_without_edges_to_other_shards_there_need_be_no_arrays_of_them(dim: int) -> None:
    case = case_of(dim, np.random.default_rng(0).integers(0, 40, 100), np.zeros(100, np.int64))
    mesh, potential = mesh_over(case)
    frame, partials = make_frame(mesh, 1.0), np.zeros((2, count_blocks(LANES * 100)))
    rows = np.int64(100), np.int64(1)
    launch(case, "attraction_loss", case.points, *rows, *case.uploaded, case.moments, partials[0])
    with_arrays = *move(case, numbers_of(), 400.0), *step(case, frame, potential, numbers_of(), 400.0)
    case.uploaded = (*case.uploaded[:4], None, None, None)
    launch(case, "attraction_loss", case.points, *rows, *case.uploaded, case.moments, partials[1])
    without = *move(case, numbers_of(), 400.0), *step(case, frame, potential, numbers_of(), 400.0)
    for got, expected in zip((*without, partials[1]), (*with_arrays, partials[0]), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_one_point_alone(dim: int) -> None:
    case = case_of(dim, np.zeros(1, np.int64), np.zeros(1, np.int64))
    numbers = numbers_of()
    assert_same_step(move(case, numbers, 400.0), exact_step(case, case.repulsion, numbers, 2 * 3000 / 2000))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), min_size=1, max_size=70),
    st.sampled_from([2, 3]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_any_graph(degrees: list[tuple[int, int]], dim: int, seed: int, with_codes: bool) -> None:
    near, far = np.array(degrees, np.int64).T
    case = case_of(dim, near, far, seed, with_codes)
    numbers = numbers_of(max_step_norm=1.0)
    assert_same_step(move(case, numbers, 400.0), cpu_step(case, case.repulsion, numbers, 2 * 3000 / 2000))


def test_results_do_not_depend_on_blocks_or_their_order(case: Case) -> None:
    first = move(case, numbers_of(), 400.0)
    for n_items, seed in [(None, 0), (None, 1), (None, 2), (1, 0), (700, 3)]:
        again = move(case, numbers_of(), 400.0, n_items, seed)
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


# --------------------------------------------------------------------------------------------- the fused step


def mesh_over(case: Case) -> tuple[Mesh, np.ndarray]:
    """A mesh that does not cover all points, and random padded coefficients on it."""
    shape = (31, 28) if case.dim == 2 else (18, 16, 19)
    spacing = 0.8 if case.dim == 2 else 1.1
    mesh = Mesh(tuple(-spacing * (s - 1) / 2 for s in shape), spacing, shape)
    padded = padded_shape(shape)
    return mesh, np.random.default_rng(3).normal(0, 1, padded).astype(np.float32)


def exact_repulsion(mesh: Mesh, potential: np.ndarray, points: np.ndarray) -> np.ndarray:
    """-1/2 of the gradient of the spline in float64, from SciPy's B-spline and its derivative."""
    spline = BSpline.basis_element(np.arange(5.0) - 2, extrapolate=False)
    slope = spline.derivative()
    inverse = np.float32(1 / mesh.spacing)
    upper = np.array([s - 2.001 for s in mesh.shape], np.float32)
    units = np.clip((points - np.asarray(mesh.origin, np.float32)) * inverse, np.float32(1), upper).astype(np.float64)
    at = [
        [np.nan_to_num(f(units[:, a, None] - np.arange(s))) for f in (spline, slope)]
        for a, s in enumerate(potential.shape)
    ]
    letters = "xyz"[: potential.ndim]
    formula = ",".join("i" + letter for letter in letters) + f",{letters}->i"
    gradient = [
        np.einsum(formula, *(at[b][int(a == b)] for b in range(potential.ndim)), potential.astype(np.float64))
        for a in range(potential.ndim)
    ]
    return -0.5 * float(inverse) * np.stack(gradient, axis=1)


def test_step_reads_the_mesh_and_moves(case: Case) -> None:
    mesh, potential = mesh_over(case)
    numbers, repel = numbers_of(), 2 * 3000 / (400.0 * 5)
    got = step(case, make_frame(mesh, 1.0), potential, numbers, 400.0)
    assert_same_step(got, exact_step(case, exact_repulsion(mesh, potential, case.points), numbers, repel))


def test_step_equals_that_of_the_cpu(case: Case) -> None:
    mesh, padded = mesh_over(case)
    potential = np.ascontiguousarray(padded[tuple(slice(s) for s in mesh.shape)])
    u, gradient = np.empty(len(case.points), np.float32), np.empty_like(case.points)
    mesh_kernels(case.dim).gather(case.points, 0, len(u), mesh_frame(mesh), potential.reshape(-1), u, gradient)
    numbers = numbers_of(z_known=1, remote_z=900.0, local_z=300.0, max_step_norm=1.0)
    wanted = cpu_step(case, gradient * np.float32(-0.5), numbers, 2 * 3000 / (400 + 900 * 400 / 300))
    assert_same_step(step(case, make_frame(mesh, 1.0), padded, numbers, 400.0), wanted)


def test_step_gives_the_same_bits_in_any_order(case: Case) -> None:
    mesh, potential = mesh_over(case)
    frame = make_frame(mesh, 1.0)
    first = step(case, frame, potential, numbers_of(), 400.0)
    for seed in (0, 5):
        for a, b in zip(first, step(case, frame, potential, numbers_of(), 400.0, seed), strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


# ------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("stride", [1, 7, 1000])
def test_attraction_loss(case: Case, stride: int) -> None:
    rows = len(range(0, len(case.points), stride))
    partials = np.full(count_blocks(LANES * rows), np.nan)
    args = (case.points, np.int64(len(case.points)), np.int64(stride), *case.uploaded, case.moments, partials)
    launch(case, "attraction_loss", *args, n_items=LANES * rows)
    total = partials.sum()
    indptr, indices, weights, *_ = case.csr
    cpu = force_kernels(case.dim, with_codes=False).attraction_loss(case.points, stride, Edges(*case.csr))
    np.testing.assert_allclose(total, cpu, rtol=1e-6)
    y, wanted = case.points.astype(np.float64), 0.0
    for i in range(0, len(y), stride):
        for e in range(indptr[i], indptr[i + 1]):
            wanted += 0.5 * weights[e] * np.log1p(((y[i] - y[indices[e]]) ** 2).sum())
        for e in range(case.cross_indptr[i], case.cross_indptr[i + 1]):
            *mean, variance = case.moments[case.cross_patches[e]].astype(np.float64)
            wanted += 0.5 * case.cross_weights[e] * np.log1p(((y[i] - mean) ** 2).sum() + variance)
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    again = np.full_like(partials, np.nan)
    launch(case, "attraction_loss", *args[:-1], again, n_items=LANES * rows, seed=4)
    np.testing.assert_array_equal(again, partials)


@pytest.mark.parametrize("noise", [1.0, 0.003])
def test_point_coefficients(case: Case, noise: float) -> None:
    n = len(case.points)
    ptr, targets, *_ = case.uploaded
    plain, conditional_p = (upload_values(a, np.float32, HostRuntime()) for a in (case.weights, case.conditional_p))
    weighted = np.full(len(plain), np.nan, np.float32)
    shares = np.full(n, np.nan, np.float32)
    partials = np.full(count_blocks(LANES * n), np.nan)
    args = (
        case.points,
        np.int64(n),
        ptr,
        targets,
        plain,
        conditional_p,
        case.z,
        np.float64(noise),
    )
    launch(case, "point_coefficients", *args, weighted, shares, partials)

    z = np.maximum(case.z, np.float32(1e-12)).astype(np.float64) * noise
    backward = case.weights - case.conditional_p
    probabilities = ConditionalEdges(case.indptr, case.indices, case.conditional_p, backward)
    cpu_weights, cpu_shares = np.empty_like(case.weights), np.empty(n, np.float32)
    cpu_loss = force_kernels(case.dim, with_codes=False).point_coefficients(
        case.points, 0, n, probabilities, z, cpu_weights, cpu_shares
    )
    y = case.points.astype(np.float64)
    rows = np.repeat(np.arange(n), np.diff(case.indptr))
    q = 1 / (1 + ((y[rows] - y[case.indices]) ** 2).sum(1))
    exact_weights = case.conditional_p * z[rows] / (q + z[rows]) + backward * z[case.indices] / (q + z[case.indices])
    exact_shares = np.bincount(rows, case.conditional_p / (q + z[rows]), minlength=n)
    exact_loss = (case.conditional_p * np.log1p(z[rows] / q)).sum()

    n_edges = len(case.weights)
    assert np.isnan(weighted[n_edges:]).all()  # of no row
    np.testing.assert_allclose(weighted[:n_edges], cpu_weights, rtol=1e-6)
    np.testing.assert_allclose(weighted[:n_edges], exact_weights, rtol=1e-6)
    for reference in (cpu_shares, exact_shares):
        np.testing.assert_allclose(shares, reference, rtol=1e-6)
    for reference in (cpu_loss, exact_loss):
        np.testing.assert_allclose(partials.sum(), reference, rtol=1e-6)

    again = np.full_like(weighted, np.nan), np.zeros_like(shares), np.zeros_like(partials)
    launch(case, "point_coefficients", *args, *again, seed=9)
    for a, b in zip((weighted, shares, partials), again, strict=True):
        np.testing.assert_array_equal(a, b)
