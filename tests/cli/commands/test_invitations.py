"""Rules of this file: `invite`, `join` and `start` as a person types them; no network."""

import json
from pathlib import Path

from dipaco.cli.commands.invite import address_for
from dipaco.cli.exits import Exit
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.settings import load_config
from dipaco.node.storage.files import Home
from dipaco.protocol.run.invitation import Invitation
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.address import Address
from tests.cli.shell import Shell
from tests.protocol.run.test_invitation import OTHERS, PEER, PLAIN, invited
from tests.values import key, manifest, peer

RUN = manifest(name="shelf")


def invitation_of(home: Path) -> str:
    return load_config(home=home, environ={}, flags={}).run.invitation


def test_start_in_an_empty_home_says_in_three_lines_what_can_be_done(shell: Shell) -> None:
    code, out, err = shell("start")
    first, *lines = err.splitlines()
    assert (code, out) == (Exit.USAGE, "")
    assert first.startswith("dipaco-node: no network to join yet")
    verbs = [line.split()[1] for line in lines]
    assert verbs == ["join", "run", "testnet"] and max(map(len, lines)) <= 80
    assert not (shell.folder / "home").exists()


def test_a_code_is_kept_for_the_next_start(shell: Shell) -> None:
    home = Home.at(shell.folder / "home")
    (home.root / "config.toml").write_text("[storage]\nmax_shards = 2  # mine\n")
    with home.held():  # by another daemon, so that this one ends before it dials
        assert "daemon" in shell.fails(Exit.HOME_TAKEN, "join", PLAIN.code)
    assert "max_shards = 2  # mine" in (home.root / "config.toml").read_text()
    config = load_config(home=home.root, environ={}, flags={})
    assert config.seeds == PLAIN.addresses
    assert config.run.invited == PLAIN


def test_a_home_that_was_invited_takes_no_other_run_without_force(shell: Shell) -> None:
    home = Home.at(shell.folder / "home")
    same, other = invited("/ip4/198.51.100.1/tcp/1"), OTHERS[0]
    with home.held():
        shell("join", PLAIN.code)
        shell.fails(Exit.HOME_TAKEN, "join", same.code)  # the node moved
        assert invitation_of(home.root) == same.code
        said = shell.fails(Exit.USAGE, "join", other.code)
        assert "--force" in said and "another --home" in said
        assert invitation_of(home.root) == same.code
        shell.fails(Exit.HOME_TAKEN, "join", other.code, "--force")
        assert invitation_of(home.root) == other.code


def test_a_run_that_is_named_in_the_file_is_not_left_for_a_code(shell: Shell) -> None:
    home = Home.at(shell.folder / "home").root
    (home / "config.toml").write_text('[run]\nid = "mine"\n')
    said = shell.fails(Exit.USAGE, "join", PLAIN.code)
    assert "config.toml, line 2) names mine" in said and invitation_of(home) == ""


def test_a_code_in_the_file_is_checked_as_on_the_line(shell: Shell) -> None:
    home = Home.at(shell.folder / "home").root
    (home / "config.toml").write_text(f'[run]\ninvitation = "{PLAIN.code[:-1]}b"\n')
    assert "its checksum says" in shell.fails(Exit.USAGE, "config", "show")


def test_an_invitation_names_the_run_of_the_home_and_the_address_that_is_given(
    shell: Shell, published: list[str]
) -> None:
    keep_run(Home.at(shell.folder / "home").root, sign_manifest(RUN, key("owner")))
    assert "no address to invite to" in shell.fails(Exit.USAGE, "invite")
    place = f"/ip4/198.41.0.4/tcp/4410/p2p/{peer('owner')}"
    code, out, err = shell("invite", "--address", place)
    assert (code, err) == (Exit.OK, "")
    line = out.rstrip("\n")
    made = Invitation.parse(line.removeprefix("dipaco-node join "))
    assert len(line) <= 80 and made.is_for(run_id(RUN), peer("owner"))
    told = json.loads(shell("invite", "shelf", "--address", place, "--json")[1])
    assert told["line"] == line and told["addresses"] == [place]
    assert published == ["invite"]


def test_an_address_that_few_can_dial_is_told(shell: Shell) -> None:
    keep_run(Home.at(shell.folder / "home").root, sign_manifest(RUN, key("owner")))
    for place, words in (("127.0.0.1", "this machine"), ("192.168.1.2", "this local network")):
        address = f"/ip4/{place}/tcp/4410/p2p/{peer('owner')}"
        _, out, err = shell("invite", "--address", address)
        assert out.count("\n") == 1 and f"of {words} alone" in err and "--announce" in err
    assert "names no peer" in shell.fails(Exit.USAGE, "invite", "--address", "/ip4/1.2.3.4/tcp/1")


def test_the_picture_holds_the_line(shell: Shell) -> None:
    keep_run(Home.at(shell.folder / "home").root, sign_manifest(RUN, key("owner")))
    place = f"/ip4/198.41.0.4/tcp/4410/p2p/{peer('owner')}"
    line, *picture = shell("invite", "--qr", "--address", place)[1].splitlines()
    assert line.startswith("dipaco-node join ")
    assert len({len(row) for row in picture}) == 1 and len(picture) * 2 >= len(picture[0])
    assert set("".join(picture)) <= set("\u2588\u2584\u2580 ")


HERE = Address.parse(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}")
HOUSE = Address.parse(f"/ip4/192.168.1.2/tcp/1/p2p/{PEER}")
WORLD = Address.parse(f"/ip4/198.41.0.4/tcp/1/p2p/{PEER}")
WORLD6 = Address.parse(f"/ip6/2a00:1450::1/tcp/1/p2p/{PEER}")


def test_a_volunteer_invites_to_its_seed_and_a_rendezvous_node_to_itself() -> None:
    assert address_for([HOUSE], [HERE, WORLD], rendezvous=False) == HOUSE
    assert address_for([HOUSE], [HERE], rendezvous=True) == HERE
    assert address_for([], [HERE, HOUSE], rendezvous=False) == HOUSE
    assert address_for([], [], rendezvous=False) is None


def test_the_address_of_the_widest_scope_and_the_shortest_code_is_chosen() -> None:
    assert address_for([], [HERE, WORLD6, WORLD, HOUSE], rendezvous=True) == WORLD
    assert address_for([], [HOUSE, WORLD6], rendezvous=True) == WORLD6
