"""``nomad-dask score``: how well a map preserves the neighbors and distances of the data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nomad_dask.callbacks.progress_bars import stage_progress
from nomad_dask.cli import options as shared
from nomad_dask.cli import output
from nomad_dask.errors import NomadWarning
from nomad_dask.params import METRICS

if TYPE_CHECKING:
    from nomad_dask.maps import Map
    from nomad_dask.sources.base import Source


@dataclass(frozen=True)
class ScoreOptions:
    """The options of ``score``."""

    column: str | None
    metadata_columns: tuple[str, ...] | None
    label: str | None
    metric: str | None
    k: tuple[int, ...] | None
    queries: int
    random_state: int
    quiet: bool
    as_json: bool


@click.command(short_help="Score a map against the vectors it was made from.")
@shared.input_options
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option(
    "--metadata-columns",
    "--keep",
    "metadata_columns",
    callback=shared.read_names,
    metavar="A,B",
    help="Columns of INPUT that are no part of the vectors, as for fit.",
)
@click.option("--label", metavar="COLUMN", help="Column of the map or of INPUT, with labels that neighbors share.")
@click.option(
    "--k",
    callback=shared.read_whole_numbers,
    metavar="A,B",
    help="Neighborhood sizes; by default those of 10, 15, 50 and 100 that are below the number of rows.",
)
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    help="Distance between vectors; by default that of the map.",
)
@click.option("--queries", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of rows.")
@click.option(
    "--random-state",
    "--seed",
    "random_state",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed for the choice of the rows.",
)
@shared.quiet_option
@shared.json_option
@shared.verbose_option
@shared.grouped("options", ScoreOptions)
def score(
    input: str,  # noqa: A002 - the name in the help
    map: Path,  # noqa: A002
    options: ScoreOptions,
) -> None:
    """Score MAP against the vectors of INPUT that it was made from.

    NP@k is the share of a row's k nearest neighbors that the map preserves, RTA how often the map agrees with the
    data on which of two random rows is nearer. Centroid triplets are the same for the centroids of labels, or of
    K-Means groups. Rank correlation is that of distances between random rows. Each has its 95 % confidence interval.
    """
    from nomad_dask import metrics
    from nomad_dask.maps import read_map

    scored = read_map(map)
    source, labels = _open_labeled(input, scored, options)
    _warn_of_other_vectors(source, scored)
    with (
        output.show_progress(options.quiet) as emit,
        stage_progress(emit, "score", source.n_rows, "rows") as advance,
    ):
        scores = metrics.score(
            source,
            scored.positions,
            labels=labels,
            ks=options.k,
            metric=scored.metric() if options.metric is None else options.metric,
            n_queries=options.queries,
            random_state=options.random_state,
            on_progress=advance,
        )
    if options.as_json:
        output.write_json(scores.as_dict())
    else:
        click.echo(output.format_scores(scores))


def _open_labeled(path: str, scored: Map, options: ScoreOptions) -> tuple[Source, Any]:
    """Return the source of the vectors, and the column of labels, which the map or the source holds."""
    from nomad_dask.sources import open_source

    label, others = options.label, options.metadata_columns or ()
    if label is None or label in scored.table.column_names:
        source = open_source(path, column=options.column, metadata_columns=others)
        return source, None if label is None else scored.table.column(label)
    source = open_source(path, column=options.column, metadata_columns=tuple(dict.fromkeys((*others, label))))
    return source, source.columns([label], 0, source.n_rows).column(label)


def _warn_of_other_vectors(source: Source, scored: Map) -> None:
    """Warn if the map was made from a source of this name whose content or columns were others."""
    described = scored.metadata.get("source")
    if not isinstance(described, dict) or described.get("name") != source.name:
        return
    if described.get("fingerprint") != source.fingerprint():
        warnings.warn(
            f"{source.name} is not as it was when the map was made: it has changed, or other columns were the vectors. "
            "The scores may be wrong: give --column and --metadata-columns as for fit.",
            NomadWarning,
            stacklevel=2,
        )
