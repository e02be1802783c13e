"""Rules of this file: programs that stand for iproute2 write down how they are called.

So the test needs no privileges; what the kernel makes of the calls, a run with `--netns` shows.
"""

from pathlib import Path

import pytest

from dipaco.cli.testnet.chaos.line import parse_line
from dipaco.cli.testnet.chaos.namespaces import Namespaces, open_namespaces
from dipaco.protocol.errors import Unavailable

LINES = {"node-1": parse_line("1Mbit/s/8Mbit/s,1ms")}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that every call of `ip` and `tc` adds a line to."""
    log = tmp_path / "calls"
    for name in ("ip", "tc"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return log


def new_calls(calls: Path) -> list[str]:
    """Return the calls since the last look."""
    found = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return found


async def begun(spaces: Namespaces) -> tuple[str, str, str]:
    """Add two nodes, and return the host's ends of their lines and the bridge."""
    await spaces.add("node-1")
    await spaces.add("node-2")
    tag = spaces.bridge.removesuffix("b0")
    return f"{tag}v1", f"{tag}v2", spaces.bridge


async def test_a_node_has_an_address_of_its_own_and_the_rates_of_its_line(calls: Path) -> None:
    async with open_namespaces(LINES) as spaces:
        ours, other, bridge = await begun(spaces)
        made = new_calls(calls)
        space = spaces.space("node-1")
        assert f"ip netns add {space}" in made and f"ip link set {ours} master {bridge} up" in made
        assert any(f"-n {space} address add 10.213.0.3/16" in call for call in made)
        rates = [call for call in made if call.startswith("tc")]
        assert [call.split("rate ")[1].split()[0] for call in rates] == ["1000000bit", "8000000bit"]
        assert not any(other in call for call in rates)


async def test_a_cut_moves_nodes_to_a_bridge_of_their_own_and_healing_moves_them_back(
    calls: Path,
) -> None:
    async with open_namespaces(LINES) as spaces:
        ours, other, bridge = await begun(spaces)
        new_calls(calls)
        one, both = frozenset(["node-1"]), frozenset(["node-1", "node-2"])
        await spaces.cut(one, "both")
        assert new_calls(calls)[-1] == f"ip link set {ours} master {bridge[:-1]}1"
        await spaces.cut(both, "both")
        assert f"ip link set {other} master {bridge[:-1]}2" in new_calls(calls)
        await spaces.heal(one, "both")
        assert new_calls(calls) == [
            f"ip link set {ours} master {bridge[:-1]}2",
            f"ip link delete {bridge[:-1]}1",
        ]
        await spaces.heal(both, "both")
        assert f"ip link set {ours} master {bridge}" in new_calls(calls)


async def test_the_end_removes_every_namespace_and_bridge(calls: Path) -> None:
    async with open_namespaces(LINES) as spaces:
        await begun(spaces)
        await spaces.cut(frozenset(["node-2"]), "both")
        new_calls(calls)
        gone = [f"ip netns delete {spaces.space(name)}" for name in ("node-1", "node-2")]
        bridges = [f"ip link delete {spaces.bridge[:-1]}{number}" for number in range(2)]
    assert new_calls(calls) == [*gone, *bridges]


async def test_where_namespaces_are_not_allowed_the_reason_is_told(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = calls.with_name("ip")
    program.write_text("#!/bin/sh\necho 'RTNETLINK answers: Operation not permitted' >&2\nexit 2\n")
    with pytest.raises(Unavailable, match="Operation not permitted"):
        async with open_namespaces({}):
            pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="ip is not installed"):
        async with open_namespaces({}):
            pass
