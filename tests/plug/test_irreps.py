"""Irreps are read as e3nn reads them, from text, lists and e3nn's own objects."""

from __future__ import annotations

import pytest

from tdn.errors import ConfigError
from tdn.plug.irreps import Irreps, couplings_of, read_irrep

TEXTS = ["16x0e+8x1o+4x2e", "2e + 3x1o+1x0e+4x0o+1x1e+2x1o", "1o+2x1o", "", "0x0e+1o"]


def test_notation_gives_dimensions_and_slices() -> None:
    irreps = Irreps("16x0e + 8x1o + 2e")
    assert (irreps.dim, irreps.num_irreps, irreps.lmax) == (45, 25, 2)
    assert irreps.slices() == [slice(0, 16), slice(16, 40), slice(40, 45)]
    assert str(irreps) == "16x0e+8x1o+1x2e"
    assert Irreps([(16, (0, 1)), (8, "1o"), (1, read_irrep("2e"))]) == irreps


def test_entries_are_joined_and_sorted() -> None:
    irreps = Irreps("2x1o+3x1o+1x0e+0x2e+1x0o")
    assert str(irreps.simplify()) == "5x1o+1x0e+1x0o"
    found = irreps.sort()
    assert str(found.irreps) == "1x0o+1x0e+2x1o+3x1o+0x2e"
    assert [found.irreps[p] for p in found.p] == list(irreps)


def test_product_of_irreps_has_every_degree_and_one_parity() -> None:
    assert list(map(str, couplings_of(read_irrep("1o"), read_irrep("2e")))) == ["1o", "2o", "3o"]


@pytest.mark.parametrize("text", ["16x0", "ax0e", "1o,2e", "0e-1o"])
def test_unreadable_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Irreps(text)


@pytest.mark.parametrize("text", TEXTS)
def test_same_as_e3nn(text: str) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    ours, theirs = Irreps(text), o3.Irreps(text)
    assert Irreps(theirs) == ours
    assert Irreps(list(theirs)) == ours
    assert (ours.dim, ours.num_irreps, ours.slices()) == (theirs.dim, theirs.num_irreps, theirs.slices())
    assert str(ours.simplify()) == str(theirs.simplify())
    assert str(ours.sort().irreps) == str(theirs.sort().irreps)
    assert ours.sort().p == tuple(theirs.sort().p)
