"""The strategies: what they choose, and that they always choose the same."""

from __future__ import annotations

import pytest

from vmm.discovery import discover
from vmm.engine.schedule import Picker, Schedule
from vmm.errors import Diverged
from vmm.strategies import Strategy
from vmm.strategies.random import RandomPicker
from vmm.strategies.recorded import RecordedPicker
from vmm.strategies.round_robin import RoundRobinPicker

NAMES = [name for name, module in discover("vmm.strategies").items() if module.SPEC.make]


def made(name: str, seed: int) -> Picker:
    spec: Strategy = discover("vmm.strategies")[name].SPEC
    assert spec.make is not None
    return spec.make(seed)


def picks(picker: Picker, enabled: list[int], count: int) -> list[int]:
    found, last = [], -1
    for _ in range(count):
        last = picker.pick(enabled, [None] * 4, last)
        found.append(last)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_always_chooses_the_same(name: str) -> None:
    def choices(seed: int) -> list[int]:
        picker = made(name, seed)
        return picks(picker, [0, 1, 3], 30) + [picker.branch(3) for _ in range(9)]

    assert choices(5) == choices(5)
    assert set(choices(5)[:30]) == {0, 1, 3}
    assert set(choices(5)[30:]) == {0, 1, 2}


def test_random_choices_are_pinned_for_every_interpreter() -> None:
    assert picks(RandomPicker(1), [0, 1, 2], 12) == [0, 2, 2, 0, 1, 1, 1, 2, 0, 0, 2, 1]
    picker = RandomPicker(1)
    assert [picker.branch(4) for _ in range(8)] == [0, 3, 3, 1, 1, 1, 2, 3]


def test_random_choices_are_even() -> None:
    found = picks(RandomPicker(3), [0, 1, 2], 3000)
    assert all(900 < found.count(task) < 1100 for task in range(3))


def test_round_robin_rotates_over_the_enabled() -> None:
    assert picks(RoundRobinPicker(0), [0, 1, 3], 7) == [0, 1, 3, 0, 1, 3, 0]
    assert picks(RoundRobinPicker(2), [0, 1, 3], 3) == [3, 0, 1]
    picker = RoundRobinPicker(0)
    assert [picker.branch(2) for _ in range(4)] == [0, 1, 0, 1]


def test_recorded_choices_are_taken_in_order() -> None:
    picker = RecordedPicker(Schedule(bytes([2, 0, 2]), (1, 0)))
    assert [picker.pick([0, 2], [], -1) for _ in range(3)] == [2, 0, 2]
    assert [picker.branch(2), picker.branch(1)] == [1, 0]


def test_recorded_choices_that_cannot_be_taken_say_where() -> None:
    picker = RecordedPicker(Schedule(bytes([2, 0]), (1,)))
    picker.pick([0, 2], [], -1)
    with pytest.raises(Diverged, match="step 2 was recorded for task 0, but only 1 or 2") as caught:
        picker.pick([1, 2], [], 2)
    assert caught.value.step == 2
    with pytest.raises(Diverged, match="ends after 2 steps"):
        picker.pick([0, 2], [], 2)
    with pytest.raises(Diverged, match="a choice of 1 ways, but way 1 was recorded"):
        picker.branch(1)
    with pytest.raises(Diverged, match="but no choice was recorded"):
        picker.branch(2)
