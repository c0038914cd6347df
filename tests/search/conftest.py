"""What the tests of the reference search say holds for the exhaustive one, too, on both engines."""

from functools import partial

import pytest

from vmm.search import exhaustive, reference

SHARED = ("test_reference", "test_reference_monitors", "test_brute", "test_brute_tso")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition(".")[2]
    engines = {name: partial(exhaustive.search, engine=name) for name in ("numpy", "numba")}
    if name in SHARED:
        searches = {"reference": reference.search, **engines}
        metafunc.parametrize("searched", searches.values(), ids=searches, indirect=True)
    elif name == "test_exhaustive":
        metafunc.parametrize("searched", engines.values(), ids=engines, indirect=True)
    elif name == "test_reduction":  # test_compiled holds reduced searches of both together
        numba = pytest.param(engines["numba"], marks=pytest.mark.slow)
        metafunc.parametrize("searched", [engines["numpy"], numba], ids=engines, indirect=True)


@pytest.fixture(autouse=True)
def searched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts one of the searches in the place of ``search`` in the test's module."""
    search = getattr(request, "param", None)
    if search is not None:
        monkeypatch.setattr(request.module, "search", search)
        monkeypatch.setattr(exhaustive, "CHUNK_MIN", 1)  # keeps a budget to a few states
