"""Random tiny worlds: source text of small async programs, made by a seed.

Every statement that a real scenario may use has its turn: reads inside expressions, writes, compare
and swap, updates by closures, locks, waits, choices, loops, helpers, try with finally, sparse
cells, background tasks. Loops are bounded, except in one background task that waits in between.
"""

import textwrap
from collections.abc import Callable
from random import Random
from typing import Any

from vmm.engine import ops
from vmm.engine.task import TaskKind
from vmm.engine.world import World

CELLS, LOCKS, VALUES = 3, 2, 3

HELPERS = """
def one_more(value):
    return ((value + 1) % 3,), value

async def add(cell, amount):
    found = await cell
    await cell.set((found + amount) % 3)
    return found

async def swap_in(cell, old, new):
    for _ in range(2):
        if await cell.cas(old, new):
            return True
    return False
"""


class _Author:
    """Writes the body of one task with about ``budget`` ops."""

    nests = 0.35

    def __init__(self, random: Random, budget: int) -> None:
        self.random = random
        self.budget = budget
        self.depth = 0

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    def cell(self) -> str:
        return f"c[{self.random.randrange(CELLS)}]"

    def number(self) -> str:
        return self.pick("x", "y", *map(str, range(VALUES)))

    def block(self) -> str:
        count = self.random.randint(1, 3)
        lines = [self.statement() for _ in range(count) if self.budget > 0]
        return "\n".join(lines) or "pass"

    def statement(self) -> str:
        self.budget -= 1
        if self.depth < 2 and self.random.random() < self.nests:
            self.depth += 1
            text = self.random.choice(self.nested)(self)
            self.depth -= 1
            return text
        return self.random.choice(self.flat)(self)

    def _block(self, head: str) -> str:
        return f"{head}\n{textwrap.indent(self.block(), '    ')}"

    def branch(self) -> str:
        return (
            self._block(f"if await {self.cell()} == {self.number()}:") + "\n" + self._block("else:")
        )

    def locked(self) -> str:
        return self._block(f"async with locks[{self.random.randrange(LOCKS)}]:")

    def loop(self) -> str:
        self.budget -= 1
        head = self.pick("for i in range(2):", "for i in (0, 2):", "for i, x in enumerate((1, 2)):")
        return (
            self._block(head)
            + "\n    y = i"
            + self.pick("", f"\n    if x == y: {self.pick('break', 'continue')}")
        )

    def cleanup(self) -> str:
        leave = self.pick("", f"\n    if x == {self.number()}: return")
        return (
            self._block("try:")
            + leave
            + f"\nfinally:\n    await {self.cell()}.set({self.number()})"
        )

    def read(self) -> str:
        return self.pick(
            f"x = await {self.cell()}",
            f"y = (x + await {self.cell()}) % 3",
            f"x, y = await {self.cell()}, x",
            f"x = max([await {self.cell()} for _ in range(1)])",
        )

    def write(self) -> str:
        return self.pick(
            f"await {self.cell()}.set({self.number()})",
            f"await {self.cell()}.set((y + await {self.cell()}) % 3)",
            f"await sparse[x].set({self.number()})",
            "x = await sparse[y]",
        )

    def swap(self) -> str:
        return self.pick(
            f"x = int(await {self.cell()}.cas({self.number()}, {self.number()}))",
            f"await swap_in({self.cell()}, {self.number()}, {self.number()})",
            f"x = await {self.cell()}.update(lambda v: ((v + x) % 3, v))",
            f"y = await {self.cell()}.update(lambda v, k: (max(v, k), v), {self.number()})",
            f"x = await add({self.cell()}, {self.number()})",
            f"x = await atomically(lambda a, b: ((b, a), a), ({self.cell()}, {self.cell()}))",
        )

    def wait(self) -> str:
        return self.pick(
            f"await wait_until({self.cell()}, lambda v: v != {self.number()})",
            f"(x, y) = await wait_until(({self.cell()}, {self.cell()}), lambda a, b: a >= b)",
            f"await atomically(lambda a: ((0,), a), ({self.cell()},), when=lambda a: a > 0)",
        )

    def other(self) -> str:
        return self.pick(
            "x = await choose(2)",
            f"await mark('goal {self.random.randrange(2)}')",
            "await fence()",
            "locals_kept = [x, {'y': y}]",
        )

    nested: tuple[Callable[["_Author"], str], ...] = (branch, locked, loop, cleanup)
    flat: tuple[Callable[["_Author"], str], ...] = (read, write, write, swap, swap, wait, other)


BACKGROUND = (
    (TaskKind.EVENTUAL, "while True: await atomically(one_more, c[:1], when=lambda v: v == 1)"),
    (TaskKind.EVENTUAL, "await wait_until(c[1], bool)\nawait c[2].set(1)"),
    (TaskKind.DAEMON, "while True: await atomically(one_more, c[1:2], when=lambda v: v == 2)"),
    (TaskKind.DAEMON, "await c[2].set(2)"),
    (TaskKind.OPTIONAL, "x = await c[0]\nawait c[1].set(x)"),
    (TaskKind.OPTIONAL, "await wait_until(c[2], bool)\nawait c[0].set(0)"),
)


class _TsoAuthor(_Author):
    """Mostly plain loads and stores of two cells, which store buffers reorder."""

    nests = 0.1

    def cell(self) -> str:
        return self.pick("c[0]", "c[1]")

    def plain(self) -> str:
        return self.pick(
            f"x = await {self.cell()}",
            f"y = await {self.cell()}",
            f"await {self.cell()}.set({self.pick('1', '2')})",
            f"await {self.cell()}.set({self.pick('1', '2', 'x')})",
        )

    def barrier(self) -> str:
        return self.pick(
            "await fence()",
            f"await {self.cell()}.set({self.number()}, serialising=True)",
            f"await {self.cell()}.cas({self.number()}, {self.number()})",
            f"x = await {self.cell()}.update(lambda v: ((v + 1) % 3, v))",
            f"(x,) = await wait_until({self.cell()}, lambda v: v != {self.number()})",
            f"x = await sparse[{self.number()}]",
            f"await sparse[{self.number()}].set(y)",
        )

    nested = (_Author.branch, _Author.locked)
    flat: tuple[Callable[[Any], str], ...] = (*[plain] * 6, barrier)


def random_tso_world(seed: int) -> tuple[World, str]:
    """A world without store buffers, but for programs that show them, and its source."""
    random = Random(f"tso {seed}")
    sources = [HELPERS]
    kinds = [TaskKind.FOREGROUND, TaskKind.FOREGROUND]
    for number in range(len(kinds)):
        author = _TsoAuthor(random, 6)
        noise = [author.statement() for _ in range(random.randint(0, 3))]
        at = random.randint(0, len(noise))
        lines = [
            "x = y = 0",
            f"await c[{number}].set({random.randint(1, 2)})",
            *noise[:at],
            f"y = await c[{1 - number}]",
            *noise[at:],
            f"await {('left', 'right')[number]}.set(3 * x + y, serialising=True)",
        ]
        sources.append(function(number, "\n".join(lines)))
    if random.random() < 0.3:
        kind, body = random.choice(BACKGROUND)
        sources.append(function(len(kinds), body))
        kinds.append(kind)
    text = "\n\n".join(sources)
    return build(f"random tso {seed}", text, kinds), text


def random_world(seed: int) -> tuple[World, str]:
    """A world and its source."""
    random = Random(seed)
    tasks = random.choice((2, 2, 2, 3))
    sources = [HELPERS]
    kinds = []
    for number in range(tasks):
        kinds.append(TaskKind.FOREGROUND)
        body = _Author(
            random, random.randint(4, 10) if tasks == 2 else random.randint(3, 5)
        ).block()
        sources.append(function(number, f"x = {number}\ny = 0\n{body}"))
    if random.random() < 0.6:
        kind, body = random.choice(BACKGROUND)
        sources.append(function(tasks, body))
        kinds.append(kind)
    text = "\n\n".join(sources)
    return build(f"random {seed}", text, kinds), text


def function(number: int, body: str) -> str:
    return f"async def task_{number}():\n{textwrap.indent(body, '    ')}"


def build(name: str, text: str, kinds: list[TaskKind]) -> World:
    world = World(name)
    scope: dict[str, Any] = {
        "c": tuple([world.cell(f"c{n}", 0) for n in range(CELLS)]),
        "locks": tuple([world.lock(f"lock{n}") for n in range(LOCKS)]),
        "left": world.cell("left", 0),
        "right": world.cell("right", 0),
        "sparse": world.array("sparse", 0, content={1: 2}),
        **{n: getattr(ops, n) for n in ("atomically", "choose", "fence", "mark", "wait_until")},
    }
    exec(compile(text, f"<{name}>", "exec"), scope)
    world.goals = ("goal 0", "goal 1")
    for number, kind in enumerate(kinds):
        world.task(f"task {number}", scope[f"task_{number}"], kind=kind)
    return world
