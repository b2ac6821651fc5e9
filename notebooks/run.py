"""Run notebooks and store their outputs in them.

    python -m notebooks.run [NAME.ipynb ...]

Without a name, all that can run here: rapids.ipynb needs a GPU. Each runs in a temporary directory with the data
beside it, so that the files it writes are not left in the repository.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
DATA = HERE / "packages.parquet"
ON_GPU = "rapids.ipynb"


def run(path: Path, folder: Path) -> Any:
    """Return a notebook with the outputs of its cells, run in a folder that gets a copy of the data."""
    shutil.copy(DATA, folder)
    # The commands of this environment, whether or not it was activated.
    variables = dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=280,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    client.execute(env=variables)
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(names: list[str]) -> None:
    for path in [HERE / name for name in names] or sorted(HERE.glob("*.ipynb")):
        if path.name != ON_GPU or names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = run(path, Path(folder))
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
