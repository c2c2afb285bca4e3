"""The six databases: what each one is, where it is published, and the published hyperparameters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tracegrad.data.splits import SUBSETS
from tracegrad.errors import DataError, did_you_mean

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
PRESET_FOLDER = Path(__file__).parent / "presets"
RELEASES = ("10.5281/zenodo.7553640", "10.5281/zenodo.7553827", "10.5281/zenodo.7553843")
REFERENCE_E3 = "X. Gong, H. Li, N. Zou, R. Xu, W. Duan, Y. Xu, Nat. Commun. 14, 2848 (2023), arXiv:2210.13955"
REFERENCE_DEEPH = "H. Li et al., Nat. Comput. Sci. 2, 367 (2022)"


@dataclass(frozen=True)
class Archive:
    """One published archive.

    Args:
        name: file name within a record.
        doi: record it is known to be in; None where all three records of the release have to be searched.
        confirmed: False where the name is derived from the name of the unzipped folder.
    """

    name: str
    doi: str | None = None
    confirmed: bool = False


@dataclass(frozen=True)
class Database:
    """Facts about one database.

    Args:
        key: MG, MM, BG, BB, BT or BS.
        system: in words.
        elements: chemical symbols.
        orbitals_published: element -> shells of the published data (OpenMX); files say it themselves when read.
        orbitals_bundled: element -> shells of the bundled data (CP2K).
        spinful: whether spin-orbit coupling is included.
        counts_published: structures of the paper, train / val / test / test_twisted.
        archives: the published files.
        folders: names of the unzipped folders.
        reference: where the published data come from.
    """

    key: str
    system: str
    elements: tuple[str, ...]
    orbitals_published: dict[str, tuple[int, ...]]
    orbitals_bundled: dict[str, tuple[int, ...]]
    spinful: bool
    counts_published: tuple[int, int, int, int]
    archives: tuple[Archive, ...]
    folders: tuple[str, ...]
    reference: str = REFERENCE_E3

    @property
    def bundled_paths(self) -> tuple[Path, ...]:
        """The compact files of the bundled set: KEY.h5, then KEY_*.h5 with structures that were added later."""
        return BUNDLED_FOLDER / f"{self.key}.h5", *sorted(BUNDLED_FOLDER.glob(f"{self.key}_*.h5"))

    @cached_property
    def manifests(self) -> tuple[dict[str, Any], ...]:
        """The manifests of the bundled files.

        Raises:
            DataError: if one is not there.
        """
        paths = [path.with_suffix(".json") for path in self.bundled_paths]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"{missing[0]}: manifest of the bundled set not found; install the package again")
        return tuple(json.loads(path.read_text(encoding="utf-8")) for path in paths)

    @property
    def counts_bundled(self) -> tuple[int, int, int, int]:
        """Bundled structures, train / val / test / test_twisted."""
        train, val, test, twisted = (sum(m["counts"][subset] for m in self.manifests) for subset in SUBSETS)
        return train, val, test, twisted

    def preset(self) -> dict[str, Any]:
        """Published hyperparameters of the baseline (``presets/KEY.yaml``), by name."""
        text = (PRESET_FOLDER / f"{self.key}.yaml").read_text(encoding="utf-8")
        preset: dict[str, Any] = yaml.safe_load(text)
        return preset


S2P2D1 = (0, 0, 1, 1, 2)
S3P2D2 = (0, 0, 0, 1, 1, 2, 2)

_ALL = (
    Database(
        "MG",
        "monolayer graphene",
        ("C",),
        {"C": S2P2D1},
        {"C": S2P2D1},
        False,
        (270, 90, 90, 0),
        (Archive("Monolayer_graphene_dataset.zip"),),
        ("Monolayer_graphene_dataset",),
        REFERENCE_DEEPH,
    ),
    Database(
        "MM",
        "monolayer MoS2",
        ("S", "Mo"),
        {"Mo": S3P2D2, "S": S2P2D1},
        {"Mo": S3P2D2, "S": S2P2D1},
        False,
        (300, 100, 100, 0),
        (Archive("Monolayer_MoS2_dataset.zip"),),
        ("Monolayer_MoS2_dataset",),
        REFERENCE_DEEPH,
    ),
    Database(
        "BG",
        "bilayer graphene",
        ("C",),
        {"C": S2P2D1},
        {"C": S2P2D1},
        False,
        (180, 60, 60, 9),
        (Archive("Bilayer_graphene_dataset.zip", RELEASES[0], confirmed=True),),
        ("Bilayer_graphene_dataset",),
    ),
    Database(
        "BB",
        "bilayer bismuthene",
        ("Bi",),
        {"Bi": S3P2D2},
        {"Bi": S2P2D1},
        True,
        (231, 113, 113, 4),
        (Archive("Bismuth_dataset.zip"), Archive("Bismuth_twisted.zip", RELEASES[0], confirmed=True)),
        ("Bismuth_dataset",),
    ),
    Database(
        "BT",
        "bilayer Bi2Te3",
        ("Te", "Bi"),
        {"Bi": S3P2D2, "Te": S3P2D2},
        {"Bi": S2P2D1, "Te": S2P2D1},
        True,
        (204, 38, 12, 2),
        (Archive("Bi2Te3_dataset_soc.zip", RELEASES[2], confirmed=True),),
        ("Bi2Te3_dataset_soc",),
    ),
    Database(
        "BS",
        "bilayer Bi2Se3",
        ("Se", "Bi"),
        {"Bi": S3P2D2, "Se": S3P2D2},
        {"Bi": S2P2D1, "Se": S2P2D1},
        True,
        (231, 113, 113, 2),
        (Archive("Bi2Se3.zip"),),
        ("Bi2Se3",),
    ),
)

DATABASES: dict[str, Database] = {database.key: database for database in _ALL}


def database(key: str) -> Database:
    """The entry of a key.

    Raises:
        DataError: for an unknown key, with the nearest known one.
    """
    if key not in DATABASES:
        raise DataError(f"unknown database {key!r}. {did_you_mean(key, DATABASES)}")
    return DATABASES[key]
