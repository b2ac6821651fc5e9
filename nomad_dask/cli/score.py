"""``nomad-dask score``: how well a map keeps what is near and far in the data."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.callbacks.progress_bars import stage_progress
from nomad_dask.cli import options


@click.command(short_help="Score a map against the vectors it was made from.")
@options.input_options
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option("--label", metavar="COLUMN", help="Column of the map or of INPUT whose labels neighbours should share.")
@click.option(
    "--k",
    "ks",
    callback=options.read_whole_numbers,
    default="10,15,50",
    show_default=True,
    metavar="A,B",
    help="Neighbourhood sizes.",
)
@click.option("--queries", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows to measure.")
@click.option(
    "--random-state",
    "--seed",
    "seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Chooses those rows.",
)
@options.quiet_option
@options.json_option
@options.verbose_option
def score(
    input: str,  # noqa: A002 - what the user calls it
    map: Path,  # noqa: A002
    column: str | None,
    label: str | None,
    ks: tuple[int, ...],
    queries: int,
    seed: int,
    quiet: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Score MAP against the vectors of INPUT that it was made from.

    NP@k is the share of a row's k nearest rows that the map keeps, RTA how often the map tells rightly
    which of two random rows is nearer, each with its 95 % confidence interval.
    """
    from nomad_dask import metrics
    from nomad_dask.maps import read_map
    from nomad_dask.sources import open_source

    found = read_map(map)
    in_map = label in found.table.column_names
    source = open_source(input, column=column, metadata_columns=() if label is None or in_map else (label,))
    if label is None:
        labels = None
    elif in_map:
        labels = found.table.column(label)
    else:
        labels = source.columns([label], 0, source.n_rows).column(label)
    with (
        options.shown_progress(quiet, verbose) as emit,
        stage_progress(emit, "score", source.n_rows, "rows") as advance,
    ):
        scores = metrics.score(
            source,
            found.positions,
            labels=labels,
            ks=ks,
            metric=found.metadata.get("params", {}).get("metric", "euclidean"),
            n_queries=queries,
            random_state=seed,
            advance=advance,
        )
    if as_json:
        options.write_json(scores.as_dict())
    else:
        click.echo(options.scores_table(scores))
