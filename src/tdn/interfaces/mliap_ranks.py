"""A stand-in for LAMMPS behind `tdn.interfaces.mliap`: a structure cut into ranks that exchange what their ghosts need.

It holds what LAMMPS' `MLIAPDataPy` of the KOKKOS package promises, and what it does not: no arrays where there is
nothing, write-only values, and rubbish in the rows of ghosts after a reverse exchange. Exports are checked with it, and
tests compare it with ASE.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdn.neighbors import neighbor_list
from tdn.structure import Structure

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# LAMMPS keeps ghosts somewhat beyond the cutoff, and longer than they are needed.
SKIN = 0.5
TIMEOUT = 120.0


@dataclass(frozen=True)
class Domain:
    """The atoms of one rank.

    Attributes:
        atoms: Their indices in the structure, local ones first, then ghosts, int64 `[ntotal]`.
        num_local: How many are local.
        senders: Of every pair within the cutoff, its ghost or local atom, int64 `[E]`.
        receivers: Of every pair, its local atom, int64 `[E]`.
        vectors: From receiver to sender, Å, `[E, 3]`.
    """

    atoms: Indices
    num_local: int
    senders: Indices
    receivers: Indices
    vectors: Array


def decompose(structure: Structure, r_max: float, ranks: int) -> list[Domain]:
    """Cut `structure` into slabs along its first cell vector, or along x, one a rank; some may hold no atoms."""
    if structure.pbc[0]:
        along = np.linalg.solve(structure.cell.T, structure.positions.T)[0] % 1.0
    else:
        along = structure.positions[:, 0] - structure.positions[:, 0].min()
        along = along / max(along.max() * (1 + 1e-9), 1e-9)
    owner = np.minimum((along * ranks).astype(np.int64), ranks - 1)
    senders, receivers, shifts = neighbor_list(structure, r_max + SKIN)
    vectors = structure.positions[senders] + shifts @ structure.cell - structure.positions[receivers]
    within = np.linalg.norm(vectors, axis=1) <= r_max
    domains = []
    for rank in range(ranks):
        local = np.flatnonzero(owner == rank)
        mine = owner[receivers] == rank
        images = np.column_stack([senders[mine], shifts[mine]])
        # Local atoms are images without a shift; every other image that somebody sees is a ghost of its own.
        known = [(int(atom), 0, 0, 0) for atom in local]
        index = {image: k for k, image in enumerate(known)}
        for image in map(tuple, images.tolist()):
            index.setdefault(image, len(index))
        pairs = within[mine]
        domains.append(
            Domain(
                atoms=np.array([image[0] for image in index], dtype=np.int64),
                num_local=len(local),
                senders=np.array([index[image] for image in map(tuple, images[pairs].tolist())], dtype=np.int64),
                receivers=np.searchsorted(local, receivers[mine][pairs]),
                vectors=vectors[mine][pairs],
            )
        )
    return domains


class Communicator:
    """What the ranks of one process, a thread each, tell each other.

    Args:
        domains: The atoms of every rank.
    """

    def __init__(self, domains: Sequence[Domain]) -> None:
        self.domains = domains
        self.barrier = threading.Barrier(len(domains), timeout=TIMEOUT)
        self.posted: list[Any] = [None] * len(domains)

    def everyone(self, rank: int, mine: Any) -> list[Any]:
        """What all ranks give, once they have."""
        self.posted[rank] = mine
        self.barrier.wait()
        given = list(self.posted)
        self.barrier.wait()
        return given

    def sum_of_owners(self, given: Sequence[Tensor], size: int) -> Tensor:
        """Rows of all ranks `[ntotal, ...]` summed by atom of the structure, `[size, ...]`."""
        total = given[0].new_zeros(size, *given[0].shape[1:])
        for domain, rows in zip(self.domains, given, strict=True):
            total.index_add_(0, torch.from_numpy(domain.atoms), rows)
        return total


class KokkosData:
    """Stand-in of LAMMPS' `MLIAPDataPy` on one rank.

    Args:
        structure: The whole structure.
        species: Element index of every atom of it, int64 `[n]`.
        communicator: The other ranks.
        rank: This one.

    Attributes:
        forces: On all atoms of the rank, what LAMMPS sums over ranks, `[ntotal, 3]`.
        virial: `sum r f` in eV, of this rank's pairs, `[3, 3]`.
        energies: Written by the potential, `[nlistatoms]`.
        total: Written by the potential.
    """

    # The potential tells LAMMPS' builds apart by the name of the module.
    __module__ = "mliap_unified_couple_kokkos"

    def __init__(self, structure: Structure, species: Indices, communicator: Communicator, rank: int) -> None:
        self._domain = domain = communicator.domains[rank]
        self._communicator = communicator
        self._rank = rank
        self._elems = species[domain.atoms].astype(np.int32)
        self._size = len(structure)
        self.ntotal = len(domain.atoms)
        self.nlistatoms = self.nlocal = domain.num_local
        self.npairs = len(domain.senders)
        self.forces = np.zeros((self.ntotal, 3))
        self.virial = np.zeros((3, 3))
        self.energies = np.full(domain.num_local, np.nan)
        self.total = np.nan

    @property
    def elems(self) -> NDArray[np.int32]:
        """Element of every atom, ghosts included."""
        return _nonempty(self._elems)

    @property
    def pair_i(self) -> NDArray[np.int32]:
        """Receivers."""
        return _nonempty(self._domain.receivers.astype(np.int32))

    @property
    def pair_j(self) -> NDArray[np.int32]:
        """Senders."""
        return _nonempty(self._domain.senders.astype(np.int32))

    @property
    def rij(self) -> Array:
        """Vectors of the pairs, Å."""
        return _nonempty(self._domain.vectors)

    @property
    def eatoms(self) -> Array:
        """Where energies of local atoms are to be written."""
        return _nonempty(self.energies)

    def _set_energy(self, value: float) -> None:
        self.total = float(value)

    energy = property(None, _set_energy)

    def update_pair_forces(self, fij: Array) -> None:
        """Add `dE/drij` `[npairs, 3]` to the atoms and the virial."""
        assert fij.shape == (self.npairs, 3)
        assert fij.dtype == np.float64
        assert fij.flags.c_contiguous
        np.add.at(self.forces, self._domain.receivers, fij)
        np.add.at(self.forces, self._domain.senders, -fij)
        self.virial -= self._domain.vectors.T @ fij

    def forward_exchange(self, copy_from: Tensor, copy_to: Tensor, vec_len: int) -> None:
        """Copy the rows of local atoms, and give those of ghosts what their owners have."""
        self._check(copy_from, copy_to, vec_len)
        own = copy_from.clone()
        own[self.nlistatoms :] = 0.0
        everyone = self._communicator.everyone(self._rank, own.detach())
        copy_to.copy_(self._communicator.sum_of_owners(everyone, self._size)[torch.from_numpy(self._domain.atoms)])

    def reverse_exchange(self, copy_from: Tensor, copy_to: Tensor, vec_len: int) -> None:
        """Add the rows of ghosts to those of their owners; what stays in those of the ghosts means nothing."""
        self._check(copy_from, copy_to, vec_len)
        everyone = self._communicator.everyone(self._rank, copy_from.detach().clone())
        copy_to.copy_(self._communicator.sum_of_owners(everyone, self._size)[torch.from_numpy(self._domain.atoms)])
        copy_to[self.nlistatoms :] = torch.nan

    def _check(self, copy_from: Tensor, copy_to: Tensor, vec_len: int) -> None:
        for rows in (copy_from, copy_to):
            # LAMMPS gets addresses and believes them.
            assert rows.shape == (self.ntotal, vec_len)
            assert rows.is_contiguous()
            assert rows.dtype in (torch.float32, torch.float64)


def _nonempty(array: NDArray[Any]) -> NDArray[Any]:
    if not array.size:
        raise ValueError("Invalid shape in axis 0: 0.")  # what Cython says
    return array


def run_on_ranks(models: Sequence[Any], structure: Structure) -> tuple[float, Array, Array | None, Array]:
    """Energy (eV), forces `[n, 3]` (eV/Å), stress (eV/Å³, None without volume) and energies of the atoms `[n]`.

    Args:
        models: The same `MLIAPPotential`, one copy a rank.
        structure: What to evaluate.
    """
    first = models[0].potential
    first.check_elements(structure.numbers)
    species = first.element_index.cpu().numpy()[structure.numbers]
    communicator = Communicator(decompose(structure, first.r_max, len(models)))
    ranks = [KokkosData(structure, species, communicator, rank) for rank in range(len(models))]

    def run(rank: int) -> None:
        try:
            models[rank].compute_forces(ranks[rank])
        except BaseException:
            communicator.barrier.abort()  # the others would wait
            raise

    with ThreadPoolExecutor(len(models)) as pool:
        futures = [pool.submit(run, rank) for rank in range(len(models))]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    forces = communicator.sum_of_owners([torch.from_numpy(data.forces) for data in ranks], len(structure)).numpy()
    energies = np.empty(len(structure))
    for domain, data in zip(communicator.domains, ranks, strict=True):
        energies[domain.atoms[: domain.num_local]] = data.energies
    virial = np.sum([data.virial for data in ranks], axis=0)
    stress = None if structure.volume is None else -0.5 * (virial + virial.T) / structure.volume
    return sum(data.total for data in ranks), forces, stress, energies
