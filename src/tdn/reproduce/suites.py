"""The accuracy suite: of each data set the files, the split, what is tested, and the published numbers beside it.

Words and numbers only; `tdn.reproduce.entries` reads the files, `tdn.reproduce.accuracy` trains on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tdn.errors import ConfigError

RMD17_SOURCE = "https://github.com/andersx/rmd17-npz (folder rmd17-npz); the authors' files: https://doi.org/10.6084/m9.figshare.12672038"
BOTNET_SOURCE = "https://github.com/davkovacs/BOTNet-datasets"
MLEARN_SOURCE = "https://github.com/materialsvirtuallab/mlearn (data), converted by scripts/convert_suites.py"


@dataclass(frozen=True)
class Part:
    """Frames of some files.

    Attributes:
        files: Names in the folder of the suite's data.
        first: First frame to take.
        last: The first one not to take any more; None for no end.
        where: Info entry, and the least and largest value of it that is taken.
    """

    files: tuple[str, ...]
    first: int = 0
    last: int | None = None
    where: tuple[str, float, float] | None = None


@dataclass(frozen=True)
class Published:
    """Numbers of a publication, in the unit and measure of the entry; None where there is none.

    Attributes:
        model: Whose.
        energy: Error of the energy.
        forces: Error of the force components, meV/Å.
        note: What makes it not quite comparable.
    """

    model: str
    energy: float | None
    forces: float | None
    note: str = ""


@dataclass(frozen=True)
class Block:
    """Frames to test on.

    Attributes:
        part: Which; frames that are also training or validation frames are left out.
        like_training: Whether they come from where the training frames do.
        published: Numbers for these frames.
        optional: Whether the files may be absent: they are tested where they are there.
    """

    part: Part
    like_training: bool = True
    published: tuple[Published, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """One training set with its tests.

    Attributes:
        name: On the command line and in tables.
        train: Training frames, validation included if `valid` is a number; isolated atoms stay.
        valid: Validation frames, or how many of the training frames are held out (at random, always the same).
        blocks: Tests by name; the first one makes the picture.
        energy: `energy` in meV or `energy_per_atom` in meV/atom.
        measure: `mae` or `rmse`.
    """

    name: str
    train: Part
    valid: Part | int
    blocks: Mapping[str, Block]
    energy: str = "energy"
    measure: str = "mae"


@dataclass(frozen=True)
class Suite:
    """A data set.

    Attributes:
        title: What it is, in one line.
        source: Where to get the files.
        folders: Where they may lie below the folder that the user names.
        entries: By name.
        notes: What a reader of the table must know.
    """

    title: str
    source: str
    folders: tuple[str, ...]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def entry(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            ConfigError: If there is none.
        """
        if name not in self.entries:
            raise ConfigError(f"No entry {name!r}; there are {', '.join(self.entries)}.")
        return self.entries[name]


def _suite(title: str, source: str, folders: tuple[str, ...], *entries: Entry, notes: tuple[str, ...] = ()) -> Suite:
    return Suite(title, source, (*folders, "."), {entry.name: entry for entry in entries}, notes)


_RMD17_MODELS = ("MACE", "Allegro", "BOTNet", "NequIP", "ACE", "GAP")
_RMD17 = {
    "aspirin": ((2.2, 6.6), (2.3, 7.3), (2.3, 8.5), (2.3, 8.2), (6.1, 17.9), (17.7, 44.9)),
    "azobenzene": ((1.2, 3.0), (1.2, 2.6), (0.7, 3.3), (0.7, 2.9), (3.6, 10.9), (8.5, 24.5)),
    "benzene": ((0.4, 0.3), (0.3, 0.2), (0.03, 0.3), (0.04, 0.3), (0.04, 0.5), (0.75, 6.0)),
    "ethanol": ((0.4, 2.1), (0.4, 2.1), (0.4, 3.2), (0.4, 2.8), (1.2, 7.3), (3.5, 18.1)),
    "malonaldehyde": ((0.8, 4.1), (0.6, 3.6), (0.8, 5.8), (0.8, 5.1), (1.7, 11.1), (4.8, 26.4)),
    "naphthalene": ((0.5, 1.6), (0.2, 0.9), (0.2, 1.8), (0.9, 1.3), (0.9, 5.1), (3.8, 16.5)),
    "paracetamol": ((1.3, 4.8), (1.5, 4.9), (1.3, 5.8), (1.4, 5.9), (4.0, 12.7), (8.5, 28.9)),
    "salicylic": ((0.9, 3.1), (0.9, 2.9), (0.8, 4.3), (0.7, 4.0), (1.8, 9.3), (5.6, 24.7)),
    "toluene": ((0.5, 1.5), (0.4, 1.8), (0.3, 1.9), (0.3, 1.6), (1.1, 6.5), (4.0, 17.8)),
    "uracil": ((0.5, 2.1), (0.6, 1.8), (0.4, 3.2), (0.4, 3.1), (1.1, 6.6), (3.0, 17.6)),
}
_RMD17_50_MODELS = ("ACE", "NequIP", "MACE")
_RMD17_50 = {
    "aspirin": ((26.2, 63.8), (19.5, 52.0), (17.0, 43.9)),
    "azobenzene": ((9.0, 28.8), (6.0, 20.0), (5.4, 17.7)),
    "benzene": ((0.2, 2.7), (0.6, 2.9), (0.7, 2.7)),
    "ethanol": ((8.6, 43.0), (8.7, 40.2), (6.7, 32.6)),
    "malonaldehyde": ((12.8, 63.5), (12.7, 52.5), (10.0, 43.3)),
    "naphthalene": ((3.8, 19.7), (2.1, 10.0), (2.1, 9.2)),
    "paracetamol": ((13.6, 45.7), (14.3, 39.7), (9.7, 31.5)),
    "salicylic": ((8.9, 41.7), (8.0, 35.0), (6.5, 28.4)),
    "toluene": ((5.3, 27.1), (3.3, 15.1), (3.1, 12.1)),
    "uracil": ((6.5, 36.2), (7.3, 40.1), (4.4, 25.9)),
}


def _rows(models: tuple[str, ...], *pairs: tuple[float | None, float | None]) -> tuple[Published, ...]:
    return tuple(Published(model, *pair) for model, pair in zip(models, pairs, strict=True))


def _rmd17(molecule: str, published: tuple[Published, ...], train: int | None = None) -> Entry:
    """All frames of the training file, or the first `train` of them and as many others for validation."""
    files = (f"rmd17_{molecule}_train_01.npz",)
    test = Block(Part((f"rmd17_{molecule}_test_01.npz",)), published=published)
    return Entry(molecule, Part(files, 0, train), Part(files, train, 2 * train) if train else 50, {"test": test})


_ACAC_MODELS = ("BOTNet", "NequIP", "MACE")
_ACAC = Entry(
    "300K",
    Part(("train_300K.xyz", "isolated_atoms.xyz")),
    50,
    {
        "300K": Block(
            Part(("test_MD_300K.xyz",)), published=_rows(_ACAC_MODELS, (0.89, 6.3), (0.81, 5.90), (0.9, 5.1))
        ),
        "600K": Block(
            Part(("test_MD_600K.xyz",)),
            like_training=False,
            published=_rows(_ACAC_MODELS, (6.2, 29.8), (6.04, 27.8), (4.6, 22.4)),
            optional=True,
        ),
        "dihedral": Block(Part(("test_dihedral.xyz",)), like_training=False, optional=True),
        "H transfer": Block(Part(("test_H_transfer.xyz",)), like_training=False),
    },
    measure="rmse",
)

_BPA_MODELS = ("Allegro L=3", "NequIP L=3", "BOTNet L=3", "MACE L=0", "MACE L=1", "MACE L=2")
_BPA_MIXED = ("train_mixedT.xyz",)
_BPA = Entry(
    "300K",
    Part(("train_300K.xyz", "iso_atoms.xyz")),
    50,
    {
        "mixed 300K": Block(Part(_BPA_MIXED, 0, 167)),
        "mixed 600K": Block(Part(_BPA_MIXED, 167, 334), like_training=False),
        "mixed 1200K": Block(Part(_BPA_MIXED, 334), like_training=False),
        "300K": Block(
            Part(("test_300K.xyz",)),
            published=_rows(_BPA_MODELS, (3.84, 12.98), (3.3, 10.8), (3.1, 11.0), (4.5, 14.6), (3.4, 10.3), (3.0, 8.8)),
            optional=True,
        ),
        "600K": Block(
            Part(("test_600K.xyz",)),
            like_training=False,
            published=_rows(
                _BPA_MODELS, (12.07, 29.17), (11.2, 26.4), (11.5, 26.7), (13.7, 33.3), (9.9, 24.6), (9.7, 21.8)
            ),
            optional=True,
        ),
        "1200K": Block(
            Part(("test_1200K.xyz",)),
            like_training=False,
            published=_rows(
                _BPA_MODELS, (42.57, 82.96), (38.5, 76.2), (39.1, 81.1), (37.1, 81.6), (31.7, 67.8), (29.8, 62.0)
            ),
            optional=True,
        ),
        "dihedral": Block(
            Part(("test_dih.xyz",)),
            like_training=False,
            published=_rows(
                _BPA_MODELS, (None, None), (23.2, 23.1), (16.3, 20.0), (12.3, 26.1), (11.5, 19.3), (7.8, 16.5)
            ),
            optional=True,
        ),
    },
    measure="rmse",
)


def _mlearn(symbol: str, valid: int, published: tuple[Published, ...] = ()) -> Suite:
    entry = Entry(
        symbol.lower(),
        Part((f"{symbol}_training.extxyz",)),
        valid,
        {"test": Block(Part((f"{symbol}_test.extxyz",)), published=published)},
        energy="energy_per_atom",
    )
    note = "published numbers: PyXtal_FF (examples/UCSD-Si-214-25), 4000 epochs on all training frames"
    title = f"mlearn {symbol}: crystals, strained, hot, with vacancies and surfaces (PBE); energies, forces, stress"
    return _suite(title, MLEARN_SOURCE, ("mlearn",), entry, notes=(note,) if published else ())


_SI = (
    Published("so4-NN", 3.83, 89.4),
    Published("so3-NN", 3.95, 82.6),
    Published("EAMD", 4.81, 90.8),
    Published("BP-NN", 9.25, 120.0),
)

_WATER = Entry(
    "water",
    Part(("data_0", "data_1", "data_2")),
    20,
    {"data_3": Block(Part(("data_3",)))},
    energy="energy_per_atom",
)

_MOLECULES = "Nmols"
_SOLVENT = Entry(
    "clusters",
    Part(("solvent_train.xyz",), where=(_MOLECULES, 1, 2)),
    14,
    {
        "1-2 molecules": Block(Part(("solvent_test.xyz",), where=(_MOLECULES, 1, 2))),
        "3-6 molecules": Block(
            Part(("solvent_test.xyz", "solvent_train.xyz"), where=(_MOLECULES, 3, 6)), like_training=False
        ),
    },
    energy="energy_per_atom",
)

_LIPS = Entry(
    "lips",
    Part(("lips_200.extxyz",), 0, 150),
    10,
    {"last 50": Block(Part(("lips_200.extxyz",), 150, 200))},
    energy="energy_per_atom",
)

_SHIPPED = Entry(
    "organics",
    Part(("train.extxyz", "isolated_atoms.extxyz")),
    Part(("valid.extxyz",)),
    {"new molecules": Block(Part(("test.extxyz",)), like_training=False)},
    energy="energy_per_atom",
)

SUITES: Mapping[str, Suite] = {
    "rmd17": _suite(
        "rMD17, split 01: ten molecules at 500 K (PBE), 950 training and 50 validation frames",
        RMD17_SOURCE, ("rmd17", "rmd17-npz"),
        *(_rmd17(name, _rows(_RMD17_MODELS, *pairs)) for name, pairs in _RMD17.items()),
        notes=("published numbers: 2206.07697, Table 2, trained for hours on a GPU",),
    ),
    "rmd17-50": _suite(
        "rMD17, split 01, few data: 50 training frames",
        RMD17_SOURCE, ("rmd17", "rmd17-npz"),
        *(_rmd17(name, _rows(_RMD17_50_MODELS, *pairs), 50) for name, pairs in _RMD17_50.items()),
        notes=(
            "the first 50 frames of split 01; 50 others choose the weights that are tested",
            "published numbers: 2206.07697, Table 2, with 50 frames that are not published, trained on a GPU",
        ),
    ),
    "acac": _suite(
        "Acetylacetone at 300 K, tested at 300 K and on the way of a proton from one oxygen to the other",
        BOTNET_SOURCE + " (dataset_acac)", ("acac", "dataset_acac"), _ACAC,
        notes=("published numbers: 2206.07697, Table 3, trained for hours on a GPU",),
    ),
    "3bpa": _suite(
        "3BPA, a flexible drug-like molecule, trained at 300 K and tested at higher temperatures",
        BOTNET_SOURCE + " (dataset_3BPA)", ("3bpa", "dataset_3BPA"), _BPA,
        notes=(
            "mixed: the three blocks of train_mixedT.xyz, not the published tests, whose files are tested where found",
            "published numbers: 2206.07697, Table 1",
        ),
    ),
    "mlearn-si": _mlearn("Si", 21, _SI),
    "mlearn-li": _mlearn("Li", 24),
    "water": _suite(
        "Liquid water, 64 molecules in a box: three systems for training, one for tests",
        "https://github.com/deepmodeling/deepmd-kit (examples/water/data)", ("water",), _WATER,
    ),
    "solvent": _suite(
        "Clusters of carbonate molecules (GFN-xTB): trained on one or two molecules, tested on up to six, 85 atoms",
        "https://github.com/ilyes319/mace-tutorials (mace-users/data)", ("solvent_xtb", "solvent"), _SOLVENT,
    ),
    "lips": _suite(
        "Li27P12S44, 83 atoms in a cell: 150 frames for training, 50 for tests",
        "https://github.com/IntelLabs/matsciml (matsciml/datasets/lips/devset), converted by scripts/convert_suites.py",
        ("lips",), _LIPS,
    ),
    "shipped": _suite(
        "Small organic molecules that ship with the package (B3LYP/6-31G*): no molecule is in two parts",
        "the package itself", (), _SHIPPED,
    ),
}  # fmt: skip
"""Name on the command line -> what it is."""
