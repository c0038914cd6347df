"""A page fault against an mmu notifier: why the fault looks at the sequence number twice.

The host wants to move a page of the guest from frame 1 to frame 2. It tells KVM before and after:
in between, ``in_progress`` is raised and every mapping of the old frame is dropped; afterwards the
sequence number ``seq`` goes up. All of that happens under the mmu lock. A vCPU that faults asks the
host for the frame *without* that lock, because the answer may take a disk access. By the time the
vCPU has the lock and writes its shadow entry ``spte``, the answer may be old.

So the vCPU notes ``seq`` before it asks, and looks again once it has the lock. If the number has
changed, or a move is in progress, the answer is worthless, and the fault starts over. ``guard=0``
leaves the second look out: then a vCPU can install frame 1 after the host has given it to somebody
else. The search shows that this takes one vCPU only, and how few steps.

This world also calibrates the searches. Its reachable states were counted by programs that share no
code with this one, for 1, 2 and 3 vCPUs: 199, 3,741 and 84,233 with the guard, each local variable
counted.
"""

from vmm.scenario import (
    Cell,
    Event,
    Finding,
    Goal,
    Guard,
    Lock,
    ModelObject,
    Monitor,
    Parameter,
    Params,
    Scenario,
    Step,
    View,
    World,
)

OLD, NEW = 1, 2
"""The page's frame before and after the move."""

MAPPED_NEW = "a vCPU mapped the new frame"
RETRIED = "a fault started over under the lock"

SCENARIO = Scenario(
    title="a page fault asks for a frame that a notifier is about to take away",
    source="KVM e930bffe95e1 (2008): mmu_notifier_seq and mmu_notifier_count",
    goals=(MAPPED_NEW, RETRIED),
    parameters=(
        Parameter("vcpus", 2, "how many vCPUs fault on the page", minimum=1, maximum=8),
        Parameter("guard", 1, "whether a fault looks again under the lock", choices=(0, 1)),
    ),
    small={"vcpus": 2},
)


class Ended(Event, frozen=True):
    """A task takes its last step."""


class Page(ModelObject):
    """All that the tasks share about one page of the guest."""

    def __init__(self, world: World, vcpus: int) -> None:
        self.lock: Lock = world.lock("mmu_lock")
        self.seq: Cell[int] = world.cell("seq", 0, guard=Guard.WRITE, lock=self.lock, marked=True)
        self.in_progress: Cell[int] = world.cell(
            "in_progress", 0, guard=Guard.WRITE, lock=self.lock, marked=True
        )
        self.pfn: Cell[int] = world.cell("pfn", OLD, marked=True)
        self.spte: Cell[int] = world.cell("spte", 0, guard=Guard.FULL, lock=self.lock)
        self.tlbs = tuple(
            [world.cell(f"tlb[{number}]", 0, buffered=False) for number in range(vcpus)]
        )


@SCENARIO.world
def build(world: World, params: Params) -> None:
    page = Page(world, params["vcpus"])
    for number, tlb in enumerate(page.tlbs):
        world.task(f"vCPU {number}", fault, page, tlb, params["guard"])
    world.task("notifier", move, page)
    world.monitors.append(StaleSpte(page))


async def fault(page: Page, tlb: Cell[int], guard: int) -> None:
    """Map the page, whichever frame holds it, and load the mapping into this vCPU's TLB."""
    while True:
        seq = await page.seq
        if await page.in_progress:
            continue
        pfn = await page.pfn
        await page.lock.acquire()
        if guard and (await page.in_progress or await page.seq != seq):
            await page.lock.release(event=Goal(RETRIED))
            continue
        await page.spte.set(pfn, event=Goal(MAPPED_NEW) if pfn == NEW else None)
        await page.lock.release()
        await tlb.set(pfn, event=Ended())
        return


async def move(page: Page) -> None:
    """Drop all mappings of the page, move it, and let faults succeed again."""
    await page.lock.acquire()
    await page.in_progress.set(await page.in_progress + 1)
    await page.spte.set(0)
    for tlb in page.tlbs:
        await tlb.set(0)
    await page.lock.release()
    await page.pfn.set(NEW)
    await page.lock.acquire()
    await page.seq.set(await page.seq + 1)
    await page.in_progress.set(await page.in_progress - 1)
    await page.lock.release(event=Ended())


class StaleSpte(Monitor):
    """Looks at the entry when the last task has ended; its state is how many have."""

    name = "notifier-retry"
    events = (Ended,)

    def __init__(self, page: Page) -> None:
        self.page = page

    def initial(self) -> int:
        return 0

    def on_event(
        self, state: int, event: Event, step: Step, view: View
    ) -> tuple[int, tuple[Finding, ...]]:
        ended = state + 1
        if ended <= len(self.page.tlbs):
            return ended, ()
        spte, pfn = view[self.page.spte], view[self.page.pfn]
        if spte in (0, pfn):
            return ended, ()
        finding = Finding(
            code="notifier-retry/stale-spte",
            message=f"at the end, spte maps frame {spte}, but the page has moved to frame {pfn}",
            rule="a mapping from before an invalidation must not be installed after it",
            source=SCENARIO.source,
            cells=("spte", "pfn"),
        )
        return ended, (finding,)
