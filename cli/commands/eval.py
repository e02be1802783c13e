"""`dipaco-node eval`: measures a run's routed perplexity on held-out text, per path and in all."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.inputs import fetch_states, open_checkpoint, worker_settings
from dipaco.cli.options import (
    checkpoint_options,
    config_option,
    device_option,
    home_of,
    json_option,
)

if TYPE_CHECKING:
    from dipaco.node.jobs.settings import WorkerSettings
    from dipaco.node.models.assessment import Assessment
    from dipaco.node.routing.held_out import HeldOutDocuments
    from dipaco.node.runs.checkpoint import Checkpoint


@click.command(name="eval")
@click.argument("name", metavar="RUN")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Score the rows of this parquet, JSON lines or txt file [the run's held-out documents].",
)
@click.option("--text-field", metavar="NAME", help="Column or key of --data [the run's].")
@click.option(
    "--domain-field",
    metavar="NAME",
    help="Column or key with the domain of each document: also score every domain.",
)
@click.option(
    "--reroute",
    type=click.IntRange(1),
    multiple=True,
    metavar="W",
    help="Also score with re-routing every W tokens; may be repeated.",
)
@click.option("--max-batch", type=int, metavar="N", help="Documents at once [32].")
@click.option("--local-sources", is_flag=True, default=None, help="The run may name local files.")
@device_option
@checkpoint_options
@config_option
@json_option
def evaluate(
    name: str,
    data: Path | None,
    text_field: str | None,
    domain_field: str | None,
    reroute: tuple[int, ...],
    max_batch: int | None,
    local_sources: bool | None,
    device: str | None,
    at: int | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Score held-out text by the path that each document is routed to.

    RUN is an id or name known to this node, a run file, or the folder of an export. The tokens that
    the router sees are not scored.
    """
    folder = home_of(home)
    settings = worker_settings(
        folder,
        {
            "compute.device": device,
            "compute.max_batch": max_batch,
            "run.local_sources": local_sources,
        },
    )
    checkpoint = open_checkpoint(name, folder, at)
    fetch_states(checkpoint, folder)
    documents = _documents(checkpoint, settings, data, text_field)
    domains = None
    if domain_field is not None:
        domains = _domains(checkpoint, settings, documents, data, domain_field)
    found = _assess(checkpoint, settings, documents, domains, reroute)

    from dipaco.cli.views.assessment import assessment_report, print_assessment

    report = assessment_report(checkpoint, found, data=str(data or ""), left_out=documents.left_out)
    print_assessment(report, as_json=as_json)


def _documents(
    checkpoint: "Checkpoint", settings: "WorkerSettings", data: Path | None, field: str | None
) -> "HeldOutDocuments":
    from dipaco.cli.views.progress import job_display
    from dipaco.node.data.tokenizers import load_tokenizer
    from dipaco.node.routing.held_out import of_file, of_run
    from dipaco.node.worker.performer import shards_of, tools_of

    manifest, tools = checkpoint.manifest, tools_of(settings)
    with job_display("held-out documents") as show:
        if data is None:
            return of_run(manifest, checkpoint.spec, shards_of(settings, tools), show)
        encoder = load_tokenizer(manifest.tokenizer, tools.blobs)
        return of_file(data, field, manifest, checkpoint.spec, encoder, show)


def _domains(
    checkpoint: "Checkpoint",
    settings: "WorkerSettings",
    documents: "HeldOutDocuments",
    data: Path | None,
    column: str,
) -> dict[int, list[str]]:
    """Return by path the domain of each document."""
    from dipaco.cli.views.progress import job_display
    from dipaco.node.data.sources.labels import labels_of_file, labels_of_source
    from dipaco.node.worker.performer import tools_of
    from dipaco.protocol.errors import ConfigError

    rows = documents.rows()
    try:
        with job_display("domains of the documents") as show:
            if data is not None:
                return documents.labelled(labels_of_file(data, column, rows, show))
            source, access = checkpoint.manifest.source, tools_of(settings).access
            return documents.labelled(labels_of_source(source, column, rows, access, show))
    except ConfigError as error:
        raise ConfigError(f"--domain-field: {error}") from error


def _assess(
    checkpoint: "Checkpoint",
    settings: "WorkerSettings",
    documents: "HeldOutDocuments",
    domains: dict[int, list[str]] | None,
    windows: tuple[int, ...],
) -> "list[Assessment]":
    from dipaco.cli.views.progress import job_display
    from dipaco.node.models.assessment import assess
    from dipaco.node.models.path_models import PathModels
    from dipaco.protocol.errors import Unavailable

    if not documents.by_path:
        raise Unavailable(f"{checkpoint.manifest.name}: no document to score")
    models = PathModels(
        checkpoint, device=settings.compute.device, threads=settings.compute.torch_threads
    )
    with job_display("scoring, routed") as show:
        return assess(
            checkpoint,
            documents,
            (None, *windows),
            models,
            domains=domains,
            max_batch=settings.compute.max_batch,
            on_progress=show,
        )
