"""The run's tokenizer, brought into the blob store."""

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer_path
from dipaco.node.network.exchange import Exchange
from dipaco.protocol.run.manifest import Manifest


async def obtain_tokenizer(manifest: Manifest, exchange: Exchange) -> None:
    """Fetch a run's tokenizer, unless it is here or part of this program; raises Unavailable."""
    pinned = manifest.tokenizer
    if embedded_tokenizer_path(pinned.sha256) is None:
        await exchange.fetch(pinned.sha256, length=pinned.size, kind="tokenizer")
