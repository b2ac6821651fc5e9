"""``python -m nomad_dask``: the command line."""

from nomad_dask.cli import main

if __name__ == "__main__":
    main()
