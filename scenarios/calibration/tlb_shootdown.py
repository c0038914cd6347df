"""A remote TLB flush against vCPUs that enter the guest: why the mode is published first.

A host thread moves a page to another frame: under the mmu lock it rewrites the entry, then it must
be sure that no vCPU goes on with the old translation before it frees the old frame. It asks each
vCPU to flush by setting a request, and waits while that vCPU is in guest mode. A vCPU that enters
the guest looks at its request; if there is one, it flushes first.

That is safe in one order only. A vCPU publishes that it is in guest mode *before* it looks at the
request: then either it sees the request, or the flusher sees its mode and waits. With
``publish_first=0`` it looks first. Between the look and the publication a flusher can set the
request, see a vCPU that is still outside, and free the frame; then the guest runs on the stale
entry of its TLB.

The order in which they are written is not enough where stores are buffered (``memory_model=tso``):
then each side may load the other's word while its own store still waits in the buffer. So both
make theirs with a full barrier: the vCPU takes the request by a locked instruction, the flusher
sets it by one. With ``barrier=0`` the flusher stores plainly, which is right under ``sc`` alone.

Like the page fault beside it, this world measures searches: its states grow quickly with ``vcpus``,
``flushers`` and ``entries``.
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
    wait_until,
)

OUTSIDE, IN_GUEST = 0, 1
USED, FREE = 0, 1

FLUSHED = "a vCPU flushed because it was asked to"
MOVED = "a vCPU loaded the entry after it was rewritten"

SCENARIO = Scenario(
    title="host threads free frames that vCPUs may still have in their TLBs",
    source="KVM d9e368d61263 (2007): remote TLB flushes; 6b7e2d099148 (2011): vcpu->mode",
    goals=(FLUSHED, MOVED),
    parameters=(
        Parameter("vcpus", 2, "how many vCPUs use the page", minimum=1, maximum=8),
        Parameter("flushers", 1, "how many host threads move it", minimum=1, maximum=4),
        Parameter("entries", 2, "how often each vCPU enters the guest", minimum=1, maximum=8),
        Parameter("publish_first", 1, "whether the mode is set before the look", choices=(0, 1)),
        Parameter("barrier", 1, "whether the request comes with a full barrier", choices=(0, 1)),
    ),
    small={"vcpus": 2, "flushers": 1, "entries": 2},
)


class Access(Event, frozen=True):
    """The guest of ``vcpu`` touches its page in ``frame``."""

    vcpu: int
    frame: int


class Vm(ModelObject):
    """One guest page: its entry, the frames that it may be in, and the vCPUs that use it."""

    def __init__(self, world: World, vcpus: int, frames: int) -> None:
        self.lock: Lock = world.lock("mmu_lock")
        self.pte: Cell[int] = world.cell("pte", 0, guard=Guard.WRITE, lock=self.lock, marked=True)
        self.frames = tuple([world.cell(f"frame {n}", USED) for n in range(frames)])
        self.modes = tuple([world.cell(f"mode{n}", OUTSIDE) for n in range(vcpus)])
        self.requests = tuple([world.cell(f"request{n}", 0) for n in range(vcpus)])
        self.tlbs = tuple([world.cell(f"tlb{n}", -1, buffered=False) for n in range(vcpus)])


@SCENARIO.world
def build(world: World, params: Params) -> None:
    vm = Vm(world, params["vcpus"], params["flushers"] + 1)
    for cpu in range(params["vcpus"]):
        world.task(f"vCPU {cpu}", run, vm, cpu, params["entries"], params["publish_first"])
    for number in range(params["flushers"]):
        world.task(f"flusher {number}", move, vm, params["barrier"])
    world.monitors.append(NoFreeFrame(vm))


async def run(vm: Vm, cpu: int, entries: int, publish_first: int) -> None:
    """Enter the guest, touch the page, leave: so many times."""
    for _ in range(entries):
        if publish_first:
            await enter(vm, cpu)
        else:
            await enter_in_the_wrong_order(vm, cpu)
        frame = await vm.tlbs[cpu]
        if frame < 0:
            frame = await vm.pte.read(event=loaded)
            await vm.tlbs[cpu].set(frame)
        await vm.frames[frame].read(event=Access(cpu, frame))
        await vm.modes[cpu].set(OUTSIDE)


async def enter(vm: Vm, cpu: int) -> None:
    """Publish the mode, then look: a request sends the vCPU back outside to flush."""
    while True:
        await vm.modes[cpu].set(IN_GUEST)
        if not await vm.requests[cpu].update(take):
            return
        await vm.modes[cpu].set(OUTSIDE)
        await vm.tlbs[cpu].set(-1, event=Goal(FLUSHED))


async def enter_in_the_wrong_order(vm: Vm, cpu: int) -> None:
    """Look, then publish: a request that comes in between is not seen until the next entry."""
    if await vm.requests[cpu].update(take):
        await vm.tlbs[cpu].set(-1, event=Goal(FLUSHED))
    await vm.modes[cpu].set(IN_GUEST)


def take(request: int) -> tuple[int, int]:
    """Test and clear."""
    return 0, request


def loaded(frame: int) -> Goal | None:
    return Goal(MOVED) if frame else None


async def move(vm: Vm, barrier: int) -> None:
    """Map the page's next frame, make every vCPU forget the old one, and free that."""
    await vm.lock.acquire()
    old = await vm.pte
    await vm.pte.set(old + 1)
    for request, mode in zip(vm.requests, vm.modes, strict=True):
        await request.set(1, serialising=bool(barrier))
        await wait_until(mode, is_outside)
    await vm.lock.release()
    await vm.frames[old].set(FREE)


def is_outside(mode: int) -> bool:
    return mode == OUTSIDE


class NoFreeFrame(Monitor):
    """Judges each access of a guest."""

    name = "tlb-shootdown"
    events = (Access,)

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def on_event(
        self, state: None, event: Event, step: Step, view: View
    ) -> tuple[None, tuple[Finding, ...]]:
        assert isinstance(event, Access)
        if view[self.vm.frames[event.frame]] == USED:
            return state, ()
        finding = Finding(
            code="tlb-shootdown/freed-frame",
            message=f"the guest of vCPU {event.vcpu} uses frame {event.frame}, which was freed",
            rule="a frame is freed only when no TLB that is in use can lead to it",
            source=SCENARIO.source,
            cells=(f"frame {event.frame}", f"tlb{event.vcpu}"),
        )
        return state, (finding,)
