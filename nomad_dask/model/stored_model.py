"""What a model stores: its manifest and its arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from nomad_dask.errors import InputError
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.params import Params
from nomad_dask.storage.model_folder import ModelManifest, model_damage


@dataclass(frozen=True)
class StoredModel:
    """A model as it is stored in a directory.

    Attributes
    ----------
    path : Path
    manifest : ModelManifest
    keeper : object
        Keeps a temporary directory in which the model is; None for a lasting one.
    """

    path: Path
    manifest: ModelManifest
    keeper: object = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, keeper: object = None) -> Self:
        """Open the model in a directory.

        Raises
        ------
        MissingInputError
            There is no such directory.
        InputError
            It is not a model, is damaged, or was written by a later version.
        """
        model = cls(path, ModelManifest.read(path), keeper)
        if damaged := model.damage(sizes_only=True):
            more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise InputError(f"The model {str(path)!r} is damaged: {damaged[0]}{more}. Make it again.")
        return model

    @property
    def n_rows(self) -> int:
        """Rows of the map."""
        return int(self.manifest.about["shape"][0])

    @property
    def n_dims(self) -> int:
        """Dimensions of the vectors."""
        return int(self.manifest.about["shape"][1])

    @property
    def n_neighbors(self) -> int:
        """Length of the stored neighbor lists."""
        return min(self.params.n_neighbors, self.n_rows - 1)

    @cached_property
    def params(self) -> Params:
        """The parameters of the map."""
        return Params(**self.manifest.about["params"])

    @cached_property
    def arrays(self) -> ModelArrays:
        """The arrays, in the order of the cells."""
        return ModelArrays(self.path / self.manifest.folder, int(self.manifest.about["n_shards"]))

    def damage(self, sizes_only: bool = False) -> list[str]:
        """Return a description of every array that is missing or damaged.

        Parameters
        ----------
        sizes_only : bool
            Compare the sizes of the files only, not their checksums.
        """
        return model_damage(self.path, self.manifest, sizes_only)
