"""A guest spins on a page that the host has moved, through an entry that nobody made its TLB drop.

The guest waits for a word to change. The host moves the page to another frame: it copies it,
rewrites the entry, makes the TLB forget the old translation, and then writes the word, in the new
frame. With ``flush=0`` it forgets the TLB: the guest reads the old frame for ever. A TLB may drop
an entry at any time, and this one would then let the guest go on, so that tests on real machines
hardly ever hang. But no processor has to, so it is a bug: the search finds the loop although one
eviction would end it.
"""

from vmm.scenario import (
    Cell,
    Goal,
    ModelObject,
    Parameter,
    Params,
    Scenario,
    TaskKind,
    World,
    atomically,
)

EMPTY = -1
MOVED = "the guest saw the word through the new entry"

SCENARIO = Scenario(
    title="a guest spins on a stale TLB entry that only an eviction would save it from",
    source="Intel SDM vol. 3, 4.10.2 (entries may be dropped at any time) and 4.10.4 (or stay)",
    goals=(MOVED,),
    parameters=(
        Parameter("flush", 1, "whether the host flushes the TLB when it moves", choices=(0, 1)),
    ),
)


class Page(ModelObject):
    """One page: its entry, the TLB's copy of that, and the word in each of two frames."""

    def __init__(self, world: World) -> None:
        self.pte: Cell[int] = world.cell("pte", 0)
        self.tlb: Cell[int] = world.cell("tlb", 0)
        self.words = tuple([world.cell(f"word in frame {frame}", 0) for frame in (0, 1)])


@SCENARIO.world
def build(world: World, params: Params) -> None:
    page = Page(world)
    world.task("guest", spin, page)
    world.task("host", move, page, params["flush"])
    world.task("eviction", evict, page, kind=TaskKind.OPTIONAL)


async def spin(page: Page) -> None:
    """Load the word until it is not 0 any more."""
    while True:
        frame = await page.tlb
        if frame == EMPTY:
            frame = await atomically(fill, (page.tlb,), reads=(page.pte,))
        if await page.words[frame].read(event=Goal(MOVED) if frame else None):
            return


def fill(pte: int, tlb: int) -> tuple[tuple[int], int]:
    """The walk and what it leaves in the TLB are one action: no flush comes in between."""
    del tlb
    return (pte,), pte


async def move(page: Page, flush: int) -> None:
    """Move the page to frame 1; then let the guest go on."""
    await page.words[1].set(await page.words[0])
    await page.pte.set(1)
    if flush:
        await page.tlb.set(EMPTY)
    await page.words[1].set(1)


async def evict(page: Page) -> None:
    """The TLB makes room."""
    while True:
        await page.tlb.set(EMPTY)
