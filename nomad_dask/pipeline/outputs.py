"""The output of a run: checked before any work, written at the end, and recognized after a kill in between."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.errors import InputError, NomadError, ResourceError, WorkspaceError
from nomad_dask.maps import read_map, write_map
from nomad_dask.params import Params
from nomad_dask.pipeline.collect import Layout, map_metadata
from nomad_dask.pipeline.model_output import write_model
from nomad_dask.pipeline.options import OutputOptions, WorkspaceOptions
from nomad_dask.sources.base import Source
from nomad_dask.storage.atomic import find_temporary, remove_partials
from nomad_dask.storage.disk_full import disk_full_error, is_disk_full
from nomad_dask.storage.model_folder import check_model_target
from nomad_dask.storage.output_paths import Target, check_targets, output_path
from nomad_dask.storage.regular_files import check_replaceable, real_path
from nomad_dask.storage.removal import REMOVED, is_garbage, remove_garbage
from nomad_dask.storage.table_formats import Format, format_to_write
from nomad_dask.storage.workspace import Workspace
from nomad_dask.utils.array_types import AXES
from nomad_dask.utils.formatting import format_bytes
from nomad_dask.utils.positions import plane_axes

if TYPE_CHECKING:
    import pyarrow as pa


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse, before any work, an output that cannot be written.

    Raises
    ------
    InputError
    DiskFullError
    """
    if output.is_dir():
        raise InputError(f"The output {str(output)!r} is a directory: give a file name such as map.parquet.")
    check_replaceable(output)
    if output.exists() and not overwrite:
        raise InputError(f"The output {str(output)!r} exists: give another name, or --overwrite it.")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"The directory {str(parent)!r} of the output does not exist: create it first.")
    try:
        with tempfile.TemporaryFile(dir=parent) as trial:
            trial.write(b"\0")
    except OSError as error:
        if is_disk_full(error):
            raise disk_full_error(output) from error
        raise InputError(f"The output {str(output)!r} cannot be written ({error}): give another directory.") from error


def check_table_output(path: Path, inputs: Sequence[str], overwrite: bool) -> Format:
    """Check, before any work, that a table can be written and would not damage what is read; return its format.

    What a killed process has left of the file is removed.

    Raises
    ------
    InputError
    DiskFullError
    """
    check_targets([Target("output", path)], inputs)
    check_output(path, overwrite)
    remove_partials(path)
    return format_to_write(path)


def beside(output: Path | None) -> Path | None:
    """Return the default workspace of an output file."""
    return None if output is None else output.with_name(output.name + ".nomad")


def resolve_paths(output: OutputOptions, workspace: WorkspaceOptions) -> tuple[OutputOptions, WorkspaceOptions]:
    """Return the options with valid paths, with ``~`` expanded.

    Raises
    ------
    InputError
        A path is empty, too long, or no text.
    """
    file = None if output.path is None else output_path(output.path, "output")
    picture = None if output.picture is None else output_path(output.picture, "picture")
    model = None if output.model is None else output_path(output.model, "model")
    directory = None if workspace.path is None else output_path(workspace.path, "workspace")
    return replace(output, path=file, picture=picture, model=model), replace(workspace, path=directory)


def check_outputs(
    source: Source, output: OutputOptions, workspace: WorkspaceOptions, also_read: Sequence[str] = ()
) -> None:
    """Check, before any work, that all outputs and the workspace can be written, and would not damage what is read.

    A file that exists is accepted with `overwrite`, and if this run was writing it when it was killed.

    Raises
    ------
    InputError
    """
    directory = workspace.path or beside(output.path)
    targets = [Target("output", output.path)] if output.path is not None else []
    targets += [Target("picture", output.picture)] if output.picture is not None else []
    targets += [Target("model", output.model, is_directory=True)] if output.model is not None else []
    if directory is not None and not workspace.is_temporary:
        targets.append(Target("workspace", directory, is_directory=True))
    check_targets(targets, [*source.local_paths(), *also_read])
    overwrite = output.overwrite or is_delivering(directory, output)
    if output.model is not None:
        check_model_target(output.model, overwrite)
    for target in targets:
        if not target.is_directory:
            check_output(target.path, overwrite)
            remove_partials(target.path)
    if output.path is not None:
        format_to_write(output.path)


def check_output_disk(output: Path | None, workspace: Path, needed: int) -> None:
    """Check that the disk of the output, if it is not that of the workspace, has space for the map.

    Raises
    ------
    ResourceError
    """
    if output is None or output.absolute().parent.stat().st_dev == workspace.stat().st_dev:
        return
    free = shutil.disk_usage(output.absolute().parent).free
    if needed > free:
        raise ResourceError(
            f"The map needs at least {format_bytes(needed)} of disk, {format_bytes(free)} are free where {output} is: "
            "give an output on a larger disk."
        )


def is_delivering(workspace: Path | None, output: OutputOptions) -> bool:
    """Return whether the run in a workspace was writing this output when it ended."""
    target = output.path or output.model
    if workspace is None or target is None:
        return False
    try:
        return Workspace(workspace).delivering == str(target.absolute())
    except (WorkspaceError, OSError):
        return False


def run_token(source: Source, params: Params, output: OutputOptions) -> str:
    """Return 8 hexadecimal digits that stand for the map of a run: its source, parameters and columns."""
    described = json.dumps([map_metadata(source, params, {}), list(output.metadata_columns)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def find_delivered(output: OutputOptions, source: Source, params: Params, workspace: WorkspaceOptions) -> Layout | None:
    """Return the finished map of a run that was killed while its workspace was being removed; None if there is none.

    Such a run has left its map, and the remains of its workspace, whose name has the token of the run.
    """
    directory = beside(output.path)
    if output.path is None or directory is None or workspace.path not in (None, directory):
        return None
    is_left = output.path.is_file() and not directory.exists() and any(find_temporary(real_path(directory), REMOVED))
    if not is_left or not is_garbage(directory, run_token(source, params, output)):
        return None
    try:
        found = read_map(output.path)
    except NomadError:
        return None
    columns = [*AXES[: params.n_components], "cell", *output.metadata_columns]
    if found.columns != columns or len(found) != source.n_rows:
        return None
    remove_garbage(directory)
    diagnostics = found.metadata.get("diagnostics", {})
    n_epochs = diagnostics.get("epochs", params.n_epochs or 0)  # a CSV file has no diagnostics
    return Layout(
        positions=found.positions,
        cell_labels=found.table.column("cell").to_numpy().astype(np.int32),
        n_epochs=n_epochs,
        n_planned_epochs=n_epochs,
        diagnostics=diagnostics,
        metadata=found.metadata,
    )


def deliver(
    layout: Layout, source: Source, output: OutputOptions, schema: pa.Schema | None, workspace: Workspace
) -> None:
    """Write the model, the map and its picture from the finished stages.

    The workspace records the output until all is written, so that the same run may replace it after a kill.

    Parameters
    ----------
    layout : Layout
    source : Source
        Provides the columns to carry along.
    output : OutputOptions
    schema : pyarrow.Schema, optional
        Types of the columns to carry along.
    workspace : Workspace
    """
    target = output.path or output.model
    if target is None:
        return
    workspace.set_delivering(target)
    if output.model is not None:
        write_model(output.model, workspace, layout, source)
    if output.path is not None:
        write_map(
            output.path, layout.positions, layout.cell_labels, source, output.metadata_columns, layout.metadata, schema
        )
    if output.picture is not None:
        from nomad_dask.plotting.raster import draw

        plane_axes(None, layout.positions.shape[1])  # warns that a third axis is not shown
        draw(layout.positions[:, 0], layout.positions[:, 1], path=output.picture)
    if output.path is None or workspace.path != beside(output.path.absolute()):
        workspace.set_delivering(None)
