"""Random tiny worlds in which cells are guarded by locks, and most programs keep to that.

Two cells have a lock each: one is fully guarded, the other write guarded. Inside ``async with`` the
programs mostly use what that lock guards, outside mostly the third cell; now and then they break
the rule. Some locked blocks go round for ever over a guarded cell until somebody changes another.
In sharing worlds the first lock is a readers-writer lock; one of its cells may be stored to while
it is shared, by who has the second lock, too.
"""

from random import Random
from typing import Any

from tests.search.random_worlds import BACKGROUND, HELPERS, _Author, function
from vmm.engine import ops
from vmm.engine.cells import Guard
from vmm.engine.rwlock import make_rwlock
from vmm.engine.task import TaskKind
from vmm.engine.world import World

GUARDED = {0: ("c[0]", "sparse[1]"), 1: ("c[1]",)}
FREE = "c[2]"


class _Careful(_Author):
    """Uses guarded cells under their lock, but for one access in ``slips``."""

    def __init__(self, random: Random, budget: int, slips: int) -> None:
        super().__init__(random, budget)
        self.slips = slips
        self.held: list[int] = []

    def cell(self) -> str:
        if self.slips and not self.random.randrange(self.slips):
            return super().cell()
        mine = [cell for lock in self.held for cell in GUARDED[lock]]
        return self.random.choice([*mine, *mine, FREE])

    def locked(self) -> str:
        lock = self.random.randrange(2)
        if lock in self.held:
            return self.write()
        self.held.append(lock)
        text = self._block(f"async with locks[{lock}]:")
        self.held.pop()
        return text

    def write(self) -> str:
        return self.pick(
            f"await {self.cell()}.set({self.number()})",
            f"await {self.cell()}.set((y + await {self.cell()}) % 3)",
            f"x = await {self.cell()}",
        )

    def round_and_round(self) -> str:
        """Stays inside the critical section until another task writes the free cell."""
        if 0 not in self.held:
            return self.locked()
        return f"while await {FREE} == 0:\n    await c[0].set((await c[0] + 1) % 2)"

    def spin(self) -> str:
        """Goes round a guarded cell alone: nothing but the end of patience gets it out."""
        return "for _ in range(4):\n    await c[0].set(1)" if 0 in self.held else self.locked()

    nested = (  # type: ignore[assignment]
        _Author.branch,
        locked,
        locked,
        locked,
        _Author.loop,
        _Author.cleanup,
        round_and_round,
        spin,
    )
    flat = (  # type: ignore[assignment]
        _Author.read,
        write,
        write,
        _Author.swap,
        _Author.wait,
        _Author.other,
    )


def guarded_world(seed: int) -> tuple[World, str]:
    """A world and its source."""
    random = Random(seed)
    tasks = random.choice((2, 2, 3))
    slips = random.choice((0, 0, 0, 12, 5))
    sources, kinds = [HELPERS], []
    for number in range(tasks):
        kind = TaskKind.FOREGROUND
        if number == tasks - 1 and tasks > 2:
            kind = random.choice(list(TaskKind))
        author = _Careful(random, random.randint(5, 11) if tasks == 2 else 5, slips)
        sources.append(
            function(number, f"x = {number}\ny = 0\n{author.locked()}\n{author.block()}")
        )
        kinds.append(kind)
    if random.random() < 0.3:
        kind, body = random.choice(BACKGROUND)
        sources.append(function(tasks, body))
        kinds.append(kind)
    text = "\n\n".join(sources)
    world = World(f"guarded {seed}")
    locks = tuple([world.lock(f"lock{n}") for n in range(2)])
    scope: dict[str, Any] = {
        "c": (
            world.cell("c0", 0, guard=Guard.FULL, lock=locks[0]),
            world.cell("c1", 0, guard=Guard.WRITE, lock=locks[1]),
            world.cell("c2", 0),
        ),
        "locks": locks,
        "sparse": world.array("sparse", 0, content={1: 2}, guard=Guard.FULL, lock=locks[0]),
        **{n: getattr(ops, n) for n in ("atomically", "choose", "fence", "mark", "wait_until")},
    }
    exec(compile(text, f"<{world.name}>", "exec"), scope)
    world.goals = ("goal 0", "goal 1")
    for number, kind in enumerate(kinds):
        world.task(f"task {number}", scope[f"task_{number}"], kind=kind)
    return world, text


class _Sharing(_Careful):
    """Shares the first lock now and then: reads what it guards, and stores under the second."""

    shared = False

    def locked(self) -> str:
        if self.held or self.random.random() < 0.5:
            return super().locked() if not self.shared else self.stored_to()
        self.held.append(0)
        self.shared = True
        body = self.block()
        self.shared = False
        self.held.pop()
        return f"await locks[0].acquire_shared()\n{body}\nawait locks[0].release_shared()"

    def stored_to(self) -> str:
        """A critical section of the second lock, while the first one is shared."""
        store = self.pick("await both.set((await both + 1) % 3)", "x = await both")
        return f"async with locks[1]:\n    {store}"

    def write(self) -> str:
        if not self.shared or (self.slips and not self.random.randrange(self.slips)):
            return self.pick(super().write(), super().write(), "await both.set(y)")
        return self.pick(f"x = await {self.cell()}", f"await {FREE}.set(x)", self.stored_to())

    nested = (  # type: ignore[assignment]
        _Author.branch,
        locked,
        locked,
        locked,
        _Author.loop,
    )
    flat = (_Author.read, write, write, write, _Author.other)  # type: ignore[assignment]


def sharing_world(seed: int) -> tuple[World, str]:
    """A world with a readers-writer lock, and its source."""
    random = Random(f"sharing {seed}")
    tasks = random.choice((2, 2, 3))
    slips = random.choice((0, 0, 0, 12, 5))
    sources, kinds = [HELPERS], []
    for number in range(tasks):
        author = _Sharing(random, random.randint(5, 9) if tasks == 2 else 4, slips)
        body = f"x = {number}\ny = 0\n{author.locked()}\n{author.block()}"
        sources.append(function(number, body))
        kinds.append(TaskKind.FOREGROUND)
    text = "\n\n".join(sources)
    world = World(f"sharing {seed}")
    first = make_rwlock(world, "lock0")
    locks = (first, world.lock("lock1", inside=(first,)))
    both = world.cell("both", 0, guard=Guard.FULL, lock=first)
    both.shared_with = (locks[1],)
    scope: dict[str, Any] = {
        "c": (
            world.cell("c0", 0, guard=Guard.FULL, lock=first),
            world.cell("c1", 0, guard=Guard.WRITE, lock=locks[1]),
            world.cell("c2", 0),
        ),
        "both": both,
        "locks": locks,
        "sparse": world.array("sparse", 0, content={1: 2}, guard=Guard.FULL, lock=first),
        **{n: getattr(ops, n) for n in ("atomically", "choose", "fence", "mark", "wait_until")},
    }
    exec(compile(text, f"<{world.name}>", "exec"), scope)
    world.goals = ("goal 0", "goal 1")
    for number, kind in enumerate(kinds):
        world.task(f"task {number}", scope[f"task_{number}"], kind=kind)
    return world, text
