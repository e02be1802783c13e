"""What many identities of one prefix can do to a run of four honest volunteers, second by second.

The schedule is real, time and volunteers are numbers. `python -m tests.node.scheduler.siege` prints
the rounds per hour with and without each attack, and how long a run takes whose first volunteers
are the attackers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, SeedLease, TrainLease
from tests.node.scheduler.shell import Shell
from tests.values import manifest, peer

HONEST = tuple(peer(name) for name in ("anna", "bert", "cara", "dora"))
NEAR, EVIL = "10.1.1.0/24", "10.6.6.0/24"
TRAIN_SECONDS, EVALUATE_SECONDS = 60, 2
ASK_SECONDS = 10  # between two questions of one idle attacker
HOUR = 3600

Attack = Callable[["Siege", PeerId, Lease], None]
"""An attacker's deed with a lease that it was just granted."""


def sit(siege: "Siege", who: PeerId, lease: Lease) -> None:
    """Keep the lease alive for ever, with progress."""
    siege.sat_on[who] = lease


def return_at_once(siege: "Siege", who: PeerId, lease: Lease) -> None:
    """Hand the lease back."""
    siege.shell.hand_back(who, lease, "no", float(siege.now))


def vanish(siege: "Siege", who: PeerId, lease: Lease) -> None:
    """Say nothing more."""


def evaluate_and_sit(siege: "Siege", who: PeerId, lease: Lease) -> None:
    """Invent every evaluation, and keep all else."""
    if isinstance(lease, EvaluateLease):
        siege.shell.submit(who, lease, float(siege.now))
    else:
        sit(siege, who, lease)


def prove_and_sit(siege: "Siege", who: PeerId, lease: Lease) -> None:
    """Invent a first training result, and keep every lease after it."""
    if isinstance(lease, EvaluateLease) or who not in siege.proved:
        siege.proved.add(who)
        siege.shell.submit(who, lease, float(siege.now))
    else:
        sit(siege, who, lease)


ATTACKS: dict[str, Attack] = {
    "sit": sit,
    "return": return_at_once,
    "vanish": vanish,
    "evaluate, then sit": evaluate_and_sit,
    "prove, then sit": prove_and_sit,
}


@dataclass
class Honest:
    """A volunteer that works as fast as it can."""

    who: PeerId
    lease: Lease | None = None
    ready: int = 0
    """When it has done its lease, or asks again."""


@dataclass
class Siege:
    """A run of two levels with two experts each, its volunteers, and its attackers."""

    attack: Attack | None = None
    identities: int = 256
    prefix: str = EVIL
    """Of the attackers; the honest ones are in `NEAR`."""
    rounds: int = 10_000
    fresh: bool = False
    """Whether the attackers are there from the beginning, before the seed model."""
    now: int = 0
    sat_on: dict[PeerId, Lease] = field(default_factory=dict)
    proved: set[PeerId] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Seed the run, and have the honest volunteers train its first round undisturbed."""
        plain = manifest()
        run = replace(plain, training=replace(plain.training, rounds=self.rounds))
        self.shell = Shell(run, (40, 30, 20, 10))
        self.honest = [Honest(who) for who in HONEST]
        if not self.fresh:
            self.shell.seed(HONEST[0])
            self._run(None, seconds=2 * TRAIN_SECONDS)

    def rounds_per_hour(self, hours: float) -> float:
        """Return how many rounds end in an hour, on average."""
        before = self.shell.schedule.rounds.done
        self._run(self.attack, seconds=round(hours * HOUR))
        return (self.shell.schedule.rounds.done - before) / hours

    def seconds_to_end(self, most: int) -> int:
        """Return the seconds until the run is over, or `most` if it is not by then."""
        while self.now < most and not self.shell.schedule.rounds.finished:
            self._run(self.attack, seconds=10)
        return self.now

    def _run(self, attack: Attack | None, *, seconds: int) -> None:
        attackers = [peer(f"x{n}") for n in range(self.identities)] if attack else []
        for _ in range(seconds):
            self.now += 1
            self.shell.make(self.shell.schedule.expire(float(self.now)))
            if attack is not None:
                self._attack(attack, attackers)
            for each in self.honest:
                self._work(each)
            self.shell.arrive()
            while self.shell.step():
                pass

    def _attack(self, attack: Attack, attackers: list[PeerId]) -> None:
        """Attackers ask first in every second: they win every race."""
        now = float(self.now)
        for who, lease in list(self.sat_on.items()):
            told = self.shell.beat(who, lease, now=now, progress=self.now, prefix=self.prefix)
            if not isinstance(told, Stands):
                del self.sat_on[who]
        for who in attackers[self.now % ASK_SECONDS :: ASK_SECONDS]:
            if who not in self.sat_on:
                got = self.shell.ask(who, now, prefix=self.prefix)
                if not isinstance(got, NoLease):
                    attack(self, who, got)

    def _work(self, each: Honest) -> None:
        now, shell = float(self.now), self.shell
        if each.lease is not None:
            told = shell.beat(each.who, each.lease, now=now, progress=self.now, prefix=NEAR)
            if not isinstance(told, Stands):
                each.lease, each.ready = None, 0
        if self.now < each.ready:
            return
        if each.lease is not None:
            shell.submit(each.who, each.lease, now)
        got = shell.ask(each.who, now, prefix=NEAR)
        each.lease = None if isinstance(got, NoLease) else got
        long = isinstance(got, SeedLease | TrainLease)
        seconds = TRAIN_SECONDS if long else EVALUATE_SECONDS
        each.ready = self.now + seconds


def main() -> None:
    """Print a line for every attack."""
    plain = Siege().rounds_per_hour(1)
    print(f"{'no attack':24}{plain:6.1f} rounds/h")
    for name, attack in ATTACKS.items():
        for where, prefix in (("other", EVIL), ("same", NEAR)):
            found = Siege(attack, prefix=prefix).rounds_per_hour(1)
            print(f"{name + ', ' + where + ' prefix':36}{found:6.1f} rounds/h {found / plain:5.2f}")
    print(f"{'fresh, no attack':36}{Siege(fresh=True, rounds=10).seconds_to_end(HOUR):6} s")
    for name, attack in ATTACKS.items():
        for where, prefix in (("other", EVIL), ("same", NEAR)):
            siege = Siege(attack, prefix=prefix, fresh=True, rounds=10)
            print(f"{f'fresh, {name}, {where} prefix':36}{siege.seconds_to_end(8 * HOUR):6} s")


if __name__ == "__main__":
    main()
