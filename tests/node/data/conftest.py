"""A hub on loopback, for whoever reads from one."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dipaco.node.data.library import import_datasets
from tests.node.data.network import Waits
from tests.standin import StandIn, standin_hub


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: Waits) -> Iterator[StandIn]:
    """A hub that the library takes for the real one; what the library waits is noted."""
    datasets = import_datasets(hub=True)
    from huggingface_hub import close_session, constants  # reads its settings once: not before

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "library"))
    with standin_hub(StandIn()) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", served.endpoint)
        url = served.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}"
        monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", url)
        fake = SimpleNamespace(sleep=waits.sleep)
        monkeypatch.setattr("huggingface_hub.utils._http.time", fake)
        yield served
        close_session()
