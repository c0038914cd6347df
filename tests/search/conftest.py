"""What the tests of the reference search say holds for the exhaustive one, too."""

import pytest

from vmm.search import exhaustive, reference

SHARED = ("test_reference", "test_reference_monitors", "test_brute")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in SHARED:
        both = {"reference": reference.search, "exhaustive": exhaustive.search}
        metafunc.parametrize("searched", both.values(), ids=both, indirect=True)


@pytest.fixture(autouse=True)
def searched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts one of the searches in the place of ``search`` in the test's module."""
    search = getattr(request, "param", None)
    if search is not None:
        monkeypatch.setattr(request.module, "search", search)
        monkeypatch.setattr(exhaustive, "CHUNK_MIN", 1)  # keeps a budget to a few states
