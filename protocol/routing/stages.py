"""The digest of each stage of a router's derivation, in the order in which a verifier compares."""

from collections.abc import Iterator

from msgspec import UNSET

from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.wire.digest import Digest


def stage_digests(spec: RouterSpec) -> Iterator[tuple[str, Digest]]:
    """Yield the name and digest of every stage that the spec has, that of the spec itself last."""
    fit = spec.fit
    if fit is not None:
        found = (
            ("source-bytes", fit.source_bytes),
            ("tokens", fit.tokens),
            ("labels", fit.labels),
            ("idf", fit.idf),
            ("basis", fit.basis),
            ("features", fit.features),
            ("centroids", fit.centroids),
        )
        for stage, digest in found:
            if digest is not None and digest is not UNSET:
                yield stage, digest
    yield "spec", spec_digest(spec)
