"""Physical memory as words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmm.bits import P, W, make_entry
from vmm.engine.world import World
from vmm.hw.memory import Memory, merge
from vmm.units import Gfn

words = st.integers(0, (1 << 64) - 1)
places = st.integers(1, 8).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, 8 - size)))


@given(old=words, value=words, place=places)
def test_merge_stores_the_low_bytes_of_a_value(
    old: int, value: int, place: tuple[int, int]
) -> None:
    size, offset = place
    expected = bytearray(old.to_bytes(8, "little"))
    expected[offset : offset + size] = value.to_bytes(8, "little")[:size]
    assert merge(old, value, offset, size) == (int.from_bytes(expected, "little"), None)


def memory() -> Memory:
    return Memory(World(), {0x10008: make_entry(2, P | W), 0x2000: 7}, {Gfn(0x10): 8, Gfn(0x11): 4})


def test_a_byte_belongs_to_its_aligned_word() -> None:
    mem = memory()
    assert {mem.word(0x2000 + n) for n in range(8)} == {mem.word(0x2000)}
    assert mem.word(0x2008) is not mem.word(0x2000)


def test_words_start_with_their_content() -> None:
    mem = memory()
    assert mem.word(0x10008).initial == make_entry(2, P | W)
    assert mem.word(0x2003).initial == 7
    assert mem.word(0x3000).initial == 0


def test_each_array_has_the_content_of_its_own_frames() -> None:
    mem = memory()
    found = [{key: cell.initial for key, cell in array.touched()} for array in mem.arrays]
    assert found == [{0x10008: make_entry(2, P | W)}, {}, {0x2000: 7}]


def test_words_of_tables_print_as_entries() -> None:
    mem = memory()
    entry, word = mem.word(0x10008), mem.word(0x2000)
    assert (entry.name, entry.format(entry.initial)) == ("gpte 0x10000[1]", "gfn 0x2 wx")
    assert (word.name, word.format(word.initial)) == ("ram 0x2000", "0x7")
    pair = mem.word(0x1100C)
    assert pair.name == "gptes 0x11000[2, 3]"
    assert pair.format(make_entry(5, P) << 32) == "not present; gfn 0x5 x"
