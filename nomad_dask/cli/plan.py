"""``nomad-dask plan``: the stages of a run, and the memory, disk and time that it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

import click

from nomad_dask.cli import options as shared
from nomad_dask.cli import output
from nomad_dask.cli.method_options import method_options
from nomad_dask.errors import NomadError, ResourceError
from nomad_dask.params import Params
from nomad_dask.utils.formatting import format_bytes

if TYPE_CHECKING:
    from nomad_dask.pipeline.given_init import GivenPositions
    from nomad_dask.planning.resources import ResourceEstimate


@dataclass(frozen=True)
class PlanOptions:
    """The options of ``plan`` that are not parameters of the method."""

    input: str
    column: str | None
    n_workers: int
    memory_limit: int | None
    device: str
    no_time: bool
    as_json: bool


@click.command(short_help="Show what fit would do and need.")
@shared.input_options
@method_options
@click.option(
    "--n-workers",
    "--workers",
    "n_workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of worker processes.",
)
@shared.memory_option
@shared.device_option
@click.option("--no-time", is_flag=True, help="Do not estimate the time, which makes a small map.")
@shared.json_option
@shared.verbose_option
@shared.grouped("options", PlanOptions)
def plan(params: Params, given_positions: GivenPositions | None, options: PlanOptions) -> None:
    """Show what `fit` would do with INPUT, which resources it needs, and whether this machine has them.

    Nothing is done. Exits with code 3 if this machine has too little memory, or the working directory too little disk
    space.
    """
    from nomad_dask.pipeline.given_init import check_given_init
    from nomad_dask.pipeline.resources import estimate_resources
    from nomad_dask.planning.plan_table import format_plan
    from nomad_dask.planning.planner import make_plan
    from nomad_dask.sources import open_source

    source = open_source(options.input, column=options.column)
    check_given_init(source, params, given_positions)
    machine = _inspect_machine(options)
    run_plan = make_plan(source, params, options.n_workers, machine.worker_bytes)
    resources = estimate_resources(run_plan)
    seconds: dict[str, float] = {}
    if not options.no_time:
        from nomad_dask.pipeline.time_estimate import estimate_seconds

        with output.show_progress(quiet=False):
            seconds = estimate_seconds(source, params, run_plan, options.device)
    problem = _find_problem(resources, machine)
    if options.as_json:
        found = {"machine": asdict(machine), "fits": problem is None}
        output.write_json(resources.as_dict() | {"seconds": seconds} | found)
    else:
        verdict = "The plan fits this machine." if problem is None else "The plan does not fit this machine."
        click.echo(f"{format_plan(resources, seconds)}\n\n{_format_machine(machine)}\n\n{verdict}")
    if problem is not None:
        raise problem


@dataclass(frozen=True)
class _Machine:
    """What this machine has for a run.

    Attributes
    ----------
    cores : int
        Cores that this process may use.
    memory_bytes, worker_bytes : int
        Memory that is available, and that of it which each worker may use.
    disk : str
        The working directory.
    disk_free_bytes : int
        Free space there.
    gpu : str or None
        The GPU that a worker would compute on, or None if it would compute on CPUs.
    gpu_free_bytes : int or None
        Free memory of the GPU for a worker.
    gpu_lacks : str or None
        Why there is no GPU to compute on, if one was asked for.
    """

    cores: int
    memory_bytes: int
    worker_bytes: int
    disk: str
    disk_free_bytes: int
    gpu: str | None
    gpu_free_bytes: int | None
    gpu_lacks: str | None


def _inspect_machine(options: PlanOptions) -> _Machine:
    from nomad_dask.metrics.measure import count_cores
    from nomad_dask.planning.gpu_memory import host_bytes_for_stages
    from nomad_dask.utils.memory import available_memory

    memory = available_memory()
    worker_bytes = memory // options.n_workers
    if options.memory_limit is not None:
        worker_bytes = min(worker_bytes, options.memory_limit)
    gpu, gpu_free_bytes, gpu_lacks = _find_gpu(options)
    worker_bytes = host_bytes_for_stages(worker_bytes, on_gpu=gpu is not None)
    folder = Path.cwd()
    disk = disk_usage(folder).free
    return _Machine(count_cores(), memory, worker_bytes, str(folder), disk, gpu, gpu_free_bytes, gpu_lacks)


def _find_gpu(options: PlanOptions) -> tuple[str | None, int | None, str | None]:
    """Return the GPU of a worker, its share of the free memory, and what keeps a run from the GPU that it asks for."""
    from nomad_dask.backends.devices import NoGpu, detect_gpu, n_local_gpus

    if options.device == "cpu":
        return None, None, None
    found = detect_gpu(with_memory=True)
    if isinstance(found, NoGpu):
        return None, None, found.lacks if options.device == "gpu" else None
    return str(found), found.free_bytes * min(options.n_workers, n_local_gpus()) // options.n_workers, None


def _find_problem(resources: ResourceEstimate, machine: _Machine) -> NomadError | None:
    """Return the error with which a run would be refused, or None if it fits."""
    from nomad_dask.backends.devices import no_gpu_error
    from nomad_dask.planning.feasibility import check_resources

    if machine.gpu_lacks is not None:
        return no_gpu_error(machine.gpu_lacks)
    try:
        check_resources(resources, machine.worker_bytes, machine.disk_free_bytes, machine.gpu_free_bytes)
    except ResourceError as error:
        return error
    return None


def _format_machine(machine: _Machine) -> str:
    """Return what the machine has as text for people, with the rows of the plan that it compares with."""
    rows = [
        ("cores", f"{machine.cores}"),
        (
            "memory per worker",
            f"{format_bytes(machine.worker_bytes)} of {format_bytes(machine.memory_bytes)} available",
        ),
        ("disk", f"{format_bytes(machine.disk_free_bytes)} free in {machine.disk}"),
        ("GPU", machine.gpu or "none"),
    ]
    if machine.gpu_free_bytes is not None:
        rows.append(("GPU memory per worker", f"{format_bytes(machine.gpu_free_bytes)} free"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(["this machine has", *(f"{name:<{width}}  {value}" for name, value in rows)])
