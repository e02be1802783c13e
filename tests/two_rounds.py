"""The ledger of a whole small run for tests: two rounds of four paths by two peers."""

from msgspec import structs

from dipaco.node.runs.files import sign_manifest
from dipaco.node.runs.ledger_file import Told
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.work.kinds import Evaluated, Evaluation, Seeded
from dipaco.protocol.work.ledger import Contribution, Entry, ModuleUpdated, SpecAdopted
from tests.kept import kept_chain
from tests.values import digest, key, manifest, peer

NLLS = (800.0, 600.0, 500.0)
"""Of each path at versions 0, 1 and 2, of 100 tokens."""


def whole_run(name: str = "shelf") -> Manifest:
    """Return the run, whose ledger is `told`."""
    plain = manifest(name=name)
    return structs.replace(plain, training=structs.replace(plain.training, inner_state="reset"))


def trainer(path: int) -> str:
    """Return the name of the peer that trains a path."""
    return "anna" if path else "bert"


def entries(run: Manifest, rounds: int) -> list[Entry]:
    """Return the entries up to the evaluation of a round."""
    top = run.topology
    states = tuple(ModuleDigest(module=m, digest=digest(str(m)[:2])) for m in top.modules)
    made: list[Entry] = [
        SpecAdopted(epoch=0, spec=digest("spec")),
        Seeded(peer=peer("anna"), states=states),
    ]
    for version in range(rounds + 1):
        if version:
            made += [_step(run, module, version) for module in top.modules]
        made += [_loss(path, version) for path in range(run.paths)]
    return made


def _step(run: Manifest, module: ModuleId, version: int) -> ModuleUpdated:
    parts = tuple(
        Contribution(
            path=path, peer=peer(trainer(path)), delta=digest(f"{module} {path}"), weight=path + 1
        )
        for path in run.topology.paths_through(module)
    )
    return ModuleUpdated(
        module=module,
        version=version,
        contributions=parts,
        state=digest(f"{module} {version}"),
        momentum=digest(f"{module} {version} momentum"),
    )


def _loss(path: int, version: int) -> Evaluated:
    scored = Evaluation(documents=10, tokens=100, nll=NLLS[version] + path, bytes=400)
    return Evaluated(path=path, version=version, peer=peer("bert"), evaluation=scored)


def told(run: Manifest, rounds: int = 2) -> Told:
    """Return the signed ledger up to a round."""
    records = kept_chain(run, *entries(run, rounds))
    return Told(sign_manifest(run, key("owner")), [encode(each) for each in records])
