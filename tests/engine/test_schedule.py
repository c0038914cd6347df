import base64
import zlib
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import msgspec
import pytest

from vmm.engine.schedule import (
    CHECKS_MAX,
    TOKEN_VERSION,
    Origin,
    Recorded,
    Schedule,
    check_stride,
    decode,
    encode,
    rolled,
    thinned,
)
from vmm.errors import ScheduleError

ORIGIN = Origin(
    scenario="calibration/notifier-retry",
    fingerprint="0123abcd",
    params={"vcpus": 2, "mode": "übung"},
    bugs=("stale-gpte",),
    era="2.6.25",
)


def recorded(steps: int = 61, origin: Origin = ORIGIN) -> Recorded:
    random = Random(steps)
    tasks = [random.randrange(3) for _ in range(steps)]
    schedule, checks = Schedule(bytes(tasks), (0, 1, 2)), checks_of([(t, 7, 99) for t in tasks])
    return Recorded(origin, schedule, check_stride(steps), thinned(checks), "f" * 32)


def checks_of(steps: Sequence[tuple[int, int, int]]) -> bytes:
    """One check per step, as a run keeps them."""
    rolling, checks = 0, bytearray()
    for task, mask, tag in steps:
        rolling = rolled(rolling, task, mask, tag)
        checks.append(rolling & 0xFF)
    return bytes(checks)


def token_of(body: bytes, *, version: str = TOKEN_VERSION) -> str:
    data = zlib.crc32(body).to_bytes(4, "big") + body
    return f"{version}.name.{base64.urlsafe_b64encode(data).decode().rstrip('=')}"


def refused(token: str) -> str:
    """The message that refuses a token: one line."""
    with pytest.raises(ScheduleError) as caught:
        decode(token)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- tokens ---


@pytest.mark.parametrize("steps", [0, 1, 61, 5_000])
def test_round_trip(steps: int) -> None:
    assert decode(encode(recorded(steps))) == recorded(steps)


def test_round_trip_without_era_and_bugs() -> None:
    origin = Origin("plain", "", {}, (), None)
    assert decode(encode(recorded(3, origin))) == recorded(3, origin)


def test_token_is_one_printable_word_that_names_the_scenario() -> None:
    token = encode(recorded(5_000))
    assert token.startswith("v1.notifier-retry.")
    assert token.isascii()
    assert token.split() == [token]
    assert len(token) < 5_000


def test_blanks_around_a_token_do_not_matter() -> None:
    assert decode(f"  {encode(recorded())}\n") == recorded()


def test_token_is_the_same_every_time() -> None:
    assert encode(recorded()) == encode(recorded())


# --- bad tokens ---


def test_truncated_tokens() -> None:
    token = encode(recorded())
    for length in range(len(token)):
        refused(token[:length])


def test_damaged_tokens() -> None:
    token, random = encode(recorded()), Random(1)
    data = token.rindex(".") + 1
    for position in range(data, len(token)):
        other = token[:position] + random.choice("AZaz09-_.! é") + token[position + 1 :]
        with suppress(ScheduleError):  # the last character has bits that mean nothing
            assert decode(other) == recorded()


@pytest.mark.parametrize("version", ["v0", "v2", "", "V1", "v1x"])
def test_foreign_versions(version: str) -> None:
    token = encode(recorded()).removeprefix(TOKEN_VERSION)
    assert "expected v1.SCENARIO.DATA" in refused(version + token)


@pytest.mark.parametrize("token", ["", ".", "..", "v1", "v1.", "v1..", "v1.name.", "v1..AAAA", "x"])
def test_what_is_no_token(token: str) -> None:
    assert "not a schedule token" in refused(token)


def test_long_nonsense_is_not_quoted_in_full() -> None:
    assert len(refused("nonsense " * 1_000)) < 200


def test_right_checksum_of_wrong_content() -> None:
    refused(token_of(b"not compressed"))
    refused(token_of(zlib.compress(b"not msgpack")))
    refused(token_of(zlib.compress(msgspec.msgpack.encode({"origin": 5}))))
    refused(token_of(zlib.compress(msgspec.msgpack.encode([]))))


# --- checks ---


@pytest.mark.parametrize("steps", [0, 1, CHECKS_MAX, CHECKS_MAX + 1, 10 * CHECKS_MAX + 3])
def test_few_checks_cover_every_step(steps: int) -> None:
    every = bytes([number % 251 for number in range(steps)])
    kept, stride = thinned(every), check_stride(steps)
    assert len(kept) == -(-steps // stride) <= CHECKS_MAX
    ends = [min(end, steps) for end in range(stride, steps + stride, stride)]
    assert kept == bytes([every[end - 1] for end in ends])


@pytest.mark.parametrize("field", range(3))
def test_check_shows_where_runs_part(field: int) -> None:
    steps = [(number % 3, 7, number) for number in range(100)]
    other = [list(step) for step in steps]
    other[60][field] += 1
    checks, changed = checks_of(steps), checks_of([(a, b, c) for a, b, c in other])
    assert changed[:60] == checks[:60]
    assert changed[60:] != checks[60:]
