"""Run notebooks and store their outputs in them.

    python -m notebooks.run [NAME.ipynb ...]

Without a name, all that can run without a GPU, which excludes rapids.ipynb. Each runs in a temporary directory with a
copy of the data, so that no files are left in the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent
DATA = NOTEBOOKS / "packages.parquet"
NEEDS_GPU = "rapids.ipynb"
TEMPORARY = re.compile(rf"{re.escape(tempfile.gettempdir())}/\w+")  # folders in which notebooks ran


def run(path: Path, folder: Path) -> Any:
    """Return a notebook with the outputs of its cells, run in a folder that gets a copy of the data."""
    shutil.copy(DATA, folder)
    # The commands of this environment, whether or not it was activated. On a busy machine Dask warns that processes end
    # slowly, which has nothing to do with the notebook.
    variables = dict(os.environ) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DASK_LOGGING__DISTRIBUTED": "error",
    }
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
    for path in [NOTEBOOKS / name for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name != NEEDS_GPU or names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = run(path, Path(folder))
            text = TEMPORARY.sub(".", nbformat.writes(notebook))
            nbformat.write(nbformat.reads(text, as_version=4), path)


if __name__ == "__main__":
    main(sys.argv[1:])
