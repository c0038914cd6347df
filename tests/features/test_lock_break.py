"""Lock breaks within a range: where they are, and with what flushed."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.hw.layout import REGION, page
from vmm.units import Gva

FRAME = 2
SPACES = {"A": {int(REGION) + 0x1000 * n: page(FRAME + n) for n in range(3)}}


def unmapped(frames: int) -> tuple[Bench, list[str]]:
    """A machine whose guest used three frames, and what zapping ``frames`` of them did."""
    made = bench(SPACES, features=("lock-break",))
    for n in range(3):
        made.do(made.guest.load(Gva(REGION + 0x1000 * n)))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    before = len(made.hand.taken)
    made.do(made.host.invalidate_start(FRAME, frames), 1)  # type: ignore[attr-defined]
    flush = made.vcpu.requests.name
    return made, [
        "flush" if op.kind == "update" else op.kind
        for op in made.hand.taken[before:]
        if op.kind in ("acquire", "release") or (op.cell is not None and op.cell.name == flush)
    ]


def test_each_frame_is_flushed_before_others_get_the_lock() -> None:
    made, did = unmapped(3)
    assert did == ["acquire", "flush", "release"] * 3
    assert not made.leaves()


def test_one_frame_needs_no_break() -> None:
    made, did = unmapped(1)
    assert did == ["acquire", "flush", "release"]
    assert len(made.leaves()) == 2
