"""The directory of a model: plain arrays, and one manifest that names them.

All arrays of one state of the model lie in a folder of their own, a generation. A new state is written as a new
generation and becomes the model when the manifest, which is replaced in one step, names it. At every instant the
directory therefore holds a whole model: the one before, or the new one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.atomic import atomic_write, link_over, remove_partials
from nomad_dask.storage.lock import LOCK, hold_lock
from nomad_dask.storage.manifest import Artifact, as_json, content_checksum
from nomad_dask.storage.regular_files import read_regular

FORMAT = 1
MODEL_MANIFEST = "model.json"
_GENERATION = "generation-{:06d}"
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class ModelManifest:
    """What the manifest of a model says.

    Attributes
    ----------
    generation : int
        Counted from 1.
    artifacts : dict of str to Artifact
        Arrays by name, such as ``cells/mean.npy``, relative to the folder of the generation.
    about : dict
        Everything else, as values of JSON.
    """

    generation: int
    artifacts: dict[str, Artifact]
    about: dict[str, Any]

    @property
    def folder(self) -> str:
        """The folder of the generation, relative to the model."""
        return _GENERATION.format(self.generation)

    @classmethod
    def read(cls, model: Path) -> Self:
        """Read the manifest of a model.

        Raises
        ------
        MissingInputError
            There is no such directory.
        InputError
            It is not a model, is damaged, or was written by a later version.
        """
        if not model.exists():
            raise MissingInputError(f"There is no model {str(model)!r}: give a directory that fit wrote with --model.")
        file = model / MODEL_MANIFEST
        try:
            content = json.loads(read_regular(file, _MAX_BYTES))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{str(model)!r} is not a model, it has no {MODEL_MANIFEST}: give a directory that fit wrote with "
                "--model."
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{file} is damaged ({error}): make the model again.") from error
        return cls._parse(file, content)

    @classmethod
    def _parse(cls, file: Path, content: Any) -> Self:
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise InputError(
                f"{file} has format {version}, this version of nomad-dask reads up to {FORMAT}: use a later version."
            )
        try:
            if content.pop("checksum") != content_checksum(content):
                raise ValueError("its content does not match its checksum")
            artifacts = {
                str(name): Artifact(str(name), int(a["size"]), int(a["crc32"]))
                for name, a in content["artifacts"].items()
            }
            return cls(int(content["generation"]), artifacts, dict(content["about"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is damaged ({error}): make the model again.") from error

    def write(self, model: Path) -> None:
        """Make the generation the state of the model."""
        artifacts = {name: {"size": a.size, "crc32": a.crc32} for name, a in self.artifacts.items()}
        content = as_json(
            {"format": FORMAT, "generation": self.generation, "about": self.about, "artifacts": artifacts}
        )
        content["checksum"] = content_checksum(content)
        with atomic_write(model / MODEL_MANIFEST) as partial:
            partial.write_text(json.dumps(content))


class Generation(ArtifactFolder):
    """A generation of a model that is being written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.artifacts: dict[str, Artifact] = {}

    def add(self, name: str, array: np.ndarray) -> None:
        """Write an array."""
        self.artifacts[name] = self.save(name, array)

    def link(self, name: str, file: Path, artifact: Artifact) -> None:
        """Add a file that exists and is never written to again: without writing its content, where links exist."""
        self.file(name).parent.mkdir(parents=True, exist_ok=True)
        link_over(file, self.file(name))
        self.artifacts[name] = replace(artifact, path=name)


@contextmanager
def new_generation(model: Path, about: Mapping[str, Any]) -> Iterator[Generation]:
    """Yield the next generation of a model, which becomes its state at the end of the block, and remove the others.

    The caller holds the lock of the directory. After an error, or a kill at any moment, the model is what it was.

    Parameters
    ----------
    model : Path
    about : mapping
        What the manifest says beside the arrays, as values of JSON; may be filled in the block.
    """
    previous = ModelManifest.read(model).generation if (model / MODEL_MANIFEST).exists() else 0
    _remove_generations(model, keep=previous)
    manifest = ModelManifest(previous + 1, {}, {})
    generation = Generation(model / manifest.folder)
    try:
        yield generation
    except BaseException:
        shutil.rmtree(generation.path, ignore_errors=True)
        raise
    replace(manifest, artifacts=generation.artifacts, about=dict(about)).write(model)
    _remove_generations(model, keep=manifest.generation)


def _remove_generations(model: Path, keep: int) -> None:
    """Remove all generations but one: earlier ones, and what a killed process has left."""
    for folder in model.glob(_GENERATION.format(0).replace("0", "[0-9]")):
        if folder.name != _GENERATION.format(keep):
            shutil.rmtree(folder, ignore_errors=True)


def copy_model(source: Path, manifest: ModelManifest, model: Path, overwrite: bool) -> None:
    """Write the state of a model that a manifest describes to another directory.

    Raises
    ------
    InputError
        See `check_model_target`.
    WorkspaceError
        Another process writes to the other directory.
    """
    check_model_target(model, overwrite)
    if model.exists() and model.samefile(source):
        return
    folder = ArtifactFolder(source / manifest.folder)
    with hold_lock(model), new_generation(model, manifest.about) as generation:
        for name, artifact in manifest.artifacts.items():
            generation.link(name, folder.file(name), artifact)


def is_model(path: Path) -> bool:
    """Return whether a directory holds a model."""
    return (path / MODEL_MANIFEST).is_file()


def check_model_target(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a directory that a model cannot be written to.

    Raises
    ------
    InputError
        It is a file, holds other files, or holds a model that is not to be replaced.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"The model {str(path)!r} is not a directory: give another name.")
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise InputError(f"The directory {str(path.absolute().parent)!r} of the model does not exist: create it.")
        return
    remove_partials(path / MODEL_MANIFEST)
    if is_model(path):
        if not overwrite:
            raise InputError(f"The model {str(path)!r} exists: give another name, or --overwrite it.")
        return
    if any(entry.name != LOCK and not entry.name.startswith("generation-") for entry in path.iterdir()):
        raise InputError(f"The model {str(path)!r} is a directory of other files: give an empty or a new directory.")


def model_damage(model: Path, manifest: ModelManifest, sizes_only: bool = False) -> list[str]:
    """Return a description of every array of a model that is missing or damaged.

    Parameters
    ----------
    model : Path
    manifest : ModelManifest
    sizes_only : bool
        Compare the sizes of the files only, not their checksums.
    """
    folder = ArtifactFolder(model / manifest.folder)
    found = (folder.damage_of(artifact, sizes_only) for artifact in manifest.artifacts.values())
    return [problem for problem in found if problem is not None]
