"""Each op by itself, on a memory of a few values."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vmm.engine import ops
from vmm.engine.events import AuditPoint, Event, Goal, resolve
from vmm.engine.ops import Op
from vmm.engine.world import World
from vmm.errors import UsageError

Memory = dict[int, Any]
WORLD = World()
A, B = WORLD.cell("a", 1), WORLD.cell("b", 2)
LOCK = WORLD.lock("lock")
TASK = 4


def published(awaited: Awaitable[Any]) -> Op:
    """The op that awaiting something publishes."""

    async def waits() -> None:
        await awaited

    program = waits()
    op = program.send(None)
    program.close()
    assert isinstance(op, Op)
    return op


def memory(**changes: Any) -> Memory:
    values = {cell.name: cell.initial for cell in WORLD.cells} | changes
    return {cell.index: values[cell.name] for cell in WORLD.cells}


def run(awaited: Awaitable[Any], **changes: Any) -> tuple[Any, dict[str, Any]]:
    """The result of an op, and what it changed."""
    op, before, after = published(awaited), memory(**changes), memory(**changes)
    assert op.enabled(after, TASK)
    result, _ = op.run(after, TASK)
    changed = {c.name: after[c.index] for c in WORLD.cells if after[c.index] != before[c.index]}
    assert set(changed) <= {cell.name for cell in op.cells}
    assert op.writes or not changed
    return result, changed


def blocked(awaited: Awaitable[Any], **changes: Any) -> bool:
    op = published(awaited)
    assert op.may_block
    return not op.enabled(memory(**changes), TASK)


def swap(a: int, b: int) -> tuple[tuple[int, int], None]:
    return (b, a), None


def plus(value: int, amount: int) -> tuple[int, int]:
    return value + amount, value


@pytest.mark.parametrize(
    ("make", "result", "changed"),
    [
        (lambda: A, 1, {}),
        (A.read, 1, {}),
        (lambda: A.set(7), None, {"a": 7}),
        (lambda: A.cas(1, 7), True, {"a": 7}),
        (lambda: A.cas(2, 7), False, {}),
        (lambda: A.update(plus, 5), 1, {"a": 6}),
        (LOCK.acquire, None, {"lock": TASK + 1}),
        (lambda: ops.atomically(lambda a, b: ((b, a), a + b), (A, B)), 3, {"a": 2, "b": 1}),
        (lambda: ops.atomically(lambda a, n: ((a + n,), n), (A,), 4), 4, {"a": 5}),
        (lambda: ops.atomically(lambda b, a: ((a + b,), a), (A,), reads=(B,)), 1, {"a": 3}),
        (lambda: ops.observe(lambda a, b, n: a + b + n, (A, B), 4), 7, {}),
        (lambda: ops.wait_until((A, B), lambda a, b: a < b), (1, 2), {}),
        (lambda: ops.wait_until(A, bool), (1,), {}),
        (ops.fence, None, {}),
        (lambda: ops.mark("goal"), None, {}),
        (lambda: ops.audit_point("here"), None, {}),
    ],
)
def test_op(make: Callable[[], Awaitable[Any]], result: object, changed: dict[str, Any]) -> None:
    assert run(make()) == (result, changed)


def test_result_keeps_its_type() -> None:
    assert run(A.cas(1, 7))[0] is True
    assert run(A, a=True)[0] is True


# --- what can block ---


def test_lock_is_taken_and_given_back() -> None:
    assert blocked(LOCK.acquire(), lock=TASK + 1)  # not recursive
    assert blocked(LOCK.acquire(), lock=9)
    assert run(LOCK.release(), lock=TASK + 1) == (None, {"lock": 0})


@pytest.mark.parametrize(("owner", "state"), [(0, "which is free"), (9, "which is held by task 8")])
def test_release_of_what_is_not_held(owner: int, state: str) -> None:
    with pytest.raises(UsageError, match=f"task {TASK} releases lock, {state}"):
        published(LOCK.release()).run(memory(lock=owner), TASK)


def test_waits_depend_on_values() -> None:
    assert blocked(ops.wait_until((A, B), lambda a, b: a > b))
    assert blocked(ops.atomically(lambda a: ((0,), a), (A,), when=lambda a: a > 5))
    assert run(ops.atomically(lambda a: ((0,), a), (A,), when=lambda a: a > 5), a=6)[0] == 6


def test_unguarded_action_never_blocks() -> None:
    assert not published(ops.atomically(lambda a: ((0,), a), (A,))).may_block


def test_action_must_give_one_value_a_cell() -> None:
    with pytest.raises(ValueError, match="zip"):
        run(ops.atomically(lambda a, b: ((a,), b), (A, B)))


def test_cells_that_are_only_read_are_not_written() -> None:
    op = published(ops.atomically(lambda b, a: ((a + b,), a), (A,), reads=(B,)))
    assert (op.cells, op.written) == ((B, A), (A,))
    assert published(A.set(1)).written == (A,)
    assert published(A.read()).written == ()


# --- choices ---


def test_choice_has_branches() -> None:
    op = published(ops.choose(3))
    assert (op.branches, op.cells, op.cell) == (3, (), None)


def test_choice_without_a_way_out() -> None:
    with pytest.raises(UsageError, match="at least one way out"):
        ops.Choose(0)


# --- events ---


@pytest.mark.parametrize(
    ("spec", "events"),
    [
        (None, ()),
        (Goal("g"), (Goal("g"),)),
        ((Goal("g"), AuditPoint("p")), (Goal("g"), AuditPoint("p"))),
        (lambda result: Goal(str(result)), (Goal("5"),)),
        (lambda result: (Goal("a"),) * 2 if result else None, (Goal("a"),) * 2),
        (lambda _: None, ()),
    ],
)
def test_events_of_a_result(spec: Any, events: tuple[Event, ...]) -> None:
    assert resolve(spec, 5) == events


@pytest.mark.parametrize(
    "make",
    [
        lambda event: A.read(event=event),
        lambda event: A.set(1, event=event),
        lambda event: A.cas(1, 2, event=event),
        lambda event: A.update(plus, 1, event=event),
        lambda event: LOCK.release(event=event),
        lambda event: ops.atomically(lambda a: ((a,), a), (A,), event=event),
        lambda event: ops.observe(lambda a: a, (A,), event=event),
        lambda event: ops.wait_until(A, bool, event=event),
        lambda event: ops.choose(2, event=event),
    ],
)
def test_ops_carry_their_event(make: Callable[[Event], Awaitable[Any]]) -> None:
    assert published(make(Goal("g"))).event == Goal("g")


def test_marks_and_audits_are_events() -> None:
    assert published(ops.mark("g")).event == Goal("g")
    assert published(ops.audit_point("p")).event == AuditPoint("p")


def test_lock_audits_at_each_release() -> None:
    lock = World().lock("lock", release_event=AuditPoint("unlocked"))
    assert published(lock.release()).event == AuditPoint("unlocked")
    assert published(lock.release(event=Goal("g"))).event == Goal("g")


# --- operands and words ---


def test_operands_tell_ops_apart() -> None:
    distinct = [
        A.set(1), A.set(2), A.cas(1, 2), A.cas(2, 1), A.update(plus, 1), A.update(plus, 2),
        ops.choose(2), ops.choose(3), ops.mark("a"), ops.mark("b"), ops.audit_point("a"),
        LOCK.acquire(), LOCK.release(), A.read(), B.read(), ops.wait_until(A, bool),
        ops.observe(plus, (A,), 1), ops.observe(plus, (A,), 2),
    ]  # fmt: skip
    made = [published(awaited) for awaited in distinct]
    keys = [(op.kind, tuple([c.name for c in op.cells]), op.operands()) for op in made]
    assert len(set(keys)) == len(keys)


def test_kinds_have_numbers_of_their_own() -> None:
    kinds = [kind for kind in _subclasses(Op) if "kind" in vars(kind)]
    assert len({kind.code for kind in kinds}) == len({kind.kind for kind in kinds}) == len(kinds)


def _subclasses(kind: type[Op]) -> list[type[Op]]:
    return [k for child in kind.__subclasses__() for k in (child, *_subclasses(child))]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: A, "read a"),
        (lambda: A.set(1), "write a"),
        (lambda: ops.wait_until((A, B), bool), "wait for a, b"),
        (lambda: ops.atomically(swap, (A, B)), "swap a, b"),
        (lambda: ops.mark("both saw it"), "mark 'both saw it'"),
        (lambda: ops.choose(2), "choose"),
    ],
)
def test_op_in_words(make: Callable[[], Awaitable[Any]], words: str) -> None:
    op = published(make())
    assert (op.describe(), repr(op)) == (words, f"<{words}>")


# --- locks as context managers ---


def test_lock_as_a_context_manager() -> None:
    async def holds() -> None:
        async with LOCK:
            await A

    program, values = holds(), memory()
    kinds, result = [], None
    try:
        while True:
            op = program.send(result)
            kinds.append(op.kind)
            result, _ = op.run(values, TASK)
    except StopIteration:
        assert kinds == ["acquire", "read", "release"]


def test_dying_task_releases_nothing() -> None:
    async def dies() -> None:
        async with LOCK:
            raise KeyError

    program = dies()
    assert program.send(None).kind == "acquire"
    with pytest.raises(KeyError):
        program.send(None)
