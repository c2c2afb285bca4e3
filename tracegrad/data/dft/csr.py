"""From CP2K's real-space CSR files to the blocks H(i, j, R) of the Hermitian half.

What has to be undone, in the order of the functions below:

- a binary record is int32 length, int32 row, int32 column, float64 value, int32 length (1-based indices);
- CP2K folds every atom into fractional coordinates [-1/2, 1/2) and counts R between the folded atoms;
- of (i, j, R) and (j, i, -R) only one is written: H(j, i, -R) = H(i, j, R)^T gives the other.

Orbitals are in the order of the basis file, m = -l..l in each shell, which is the order of all blocks in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.errors import DataError

Images = dict[int, tuple[int, int, int]]

RECORD = np.dtype([("head", "<i4"), ("row", "<i4"), ("column", "<i4"), ("value", "<f8"), ("tail", "<i4")])
PAYLOAD_BYTES = 16
FACE_TOLERANCE = 1e-6
PARTNER_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Geometry:
    """The arrays of a structure that the assembly needs.

    Args:
        positions: (N, 3) positions, not folded, Å.
        cell: (3, 3) lattice vectors as rows, Å.
        n_orbitals: (N,) orbitals of each atom.
    """

    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    n_orbitals: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """(N + 1,) first orbital of each atom, and their total number."""
        return np.concatenate([[0], np.cumsum(self.n_orbitals)])


def read_records(path: Path, n_orbitals: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Read one binary CSR file.

    Args:
        path: File of one periodic image.
        n_orbitals: Size of the matrix.

    Returns:
        0-based rows, 0-based columns and values (Hartree, or dimensionless for the overlap).

    Raises:
        DataError: If the file is missing, cut, of another layout, or points outside the matrix.
    """
    if not path.exists():
        raise DataError(f"expected the matrix of one periodic image in {path.name}, found no such file")
    size = path.stat().st_size
    if size % RECORD.itemsize:
        raise DataError(f"{path.name}: expected records of {RECORD.itemsize} bytes, found {size} bytes; it is cut")
    records = np.fromfile(path, dtype=RECORD)
    if (records["head"] != PAYLOAD_BYTES).any() or (records["tail"] != PAYLOAD_BYTES).any():
        raise DataError(f"{path.name}: record markers differ from {PAYLOAD_BYTES}; expected BINARY T output of CP2K")
    rows, columns = records["row"].astype(np.int64) - 1, records["column"].astype(np.int64) - 1
    for name, index in (("row", rows), ("column", columns)):
        if len(index) and (index.min() < 0 or index.max() >= n_orbitals):
            raise DataError(f"{path.name}: {name} {index.max() + 1} is outside a matrix of {n_orbitals} orbitals")
    if not np.isfinite(records["value"]).all():
        raise DataError(f"{path.name}: expected finite matrix elements")
    return rows, columns, records["value"].astype(np.float64)


def folding_offsets(geometry: Geometry) -> NDArray[np.int64]:
    """Return the lattice vector that CP2K adds to each atom to fold it into [-1/2, 1/2).

    off = -floor(f + 1/2) with the unfolded fractional coordinates f; then R = R_CP2K + off_j - off_i.

    Returns:
        (N, 3) integers.

    Raises:
        DataError: If an atom lies on a face of the folded cell, where CP2K may fold it either way.
    """
    fractions = geometry.positions @ np.linalg.inv(geometry.cell) + 0.5
    on_face = abs(fractions - fractions.round()).min(axis=1) < FACE_TOLERANCE
    if on_face.any():
        atom = int(np.flatnonzero(on_face)[0])
        raise DataError(
            f"atom {atom} lies on the face of the cell at fractional coordinate 1/2, where the image CP2K counts it in "
            "is ambiguous; shift the whole structure rigidly"
        )
    return -np.floor(fractions).astype(np.int64)


def half_pairs(geometry: Geometry, r_cut: float) -> NDArray[np.int64]:
    """Return the pairs within r_cut, one of each Hermitian couple.

    Args:
        geometry: Structure.
        r_cut: Largest distance, Å.

    Returns:
        (P, 5) rows Rx, Ry, Rz, i, j: i < j with any R, or i = j with R = 0 or R > 0 lexicographically; on-site first.
    """
    i, j, shifts = neighbor_pairs(geometry.positions, geometry.cell, [True] * 3, r_cut)
    atoms = np.arange(len(geometry.positions))
    on_site = np.column_stack([np.zeros((len(atoms), 3), dtype=np.int64), atoms, atoms])
    return np.concatenate([on_site, np.column_stack([shifts, i, j])]).astype(np.int64)


def assemble(
    folder: Path, prefix: str, images: Images, geometry: Geometry, pairs: NDArray[np.int64]
) -> tuple[Blocks, float]:
    """Assemble the blocks of the pairs from the files of all periodic images.

    Args:
        folder: Folder of the run.
        prefix: Start of the file names, ``ks-KS_SPIN_1`` or ``s-S_SPIN_1``.
        images: Image number -> R of CP2K's folded atoms.
        geometry: Structure.
        pairs: (P, 5) pairs of the Hermitian half, from ``half_pairs``.

    Returns:
        The blocks in the unit of the files, and the largest element that belongs to none of the pairs.

    Raises:
        DataError: If a pair has no matrix elements, or the two directions of a pair disagree.
    """
    offsets = folding_offsets(geometry)
    folded = pairs.copy()
    folded[:, :3] += offsets[pairs[:, 3]] - offsets[pairs[:, 4]]
    numbers = {image: number for number, image in images.items()}
    n_total = int(geometry.starts[-1])
    shapes = geometry.n_orbitals[pairs[:, 3:]]
    ends = np.cumsum(shapes.prod(axis=1))
    values = np.zeros(int(ends[-1]))
    written = np.zeros(len(pairs), dtype=bool)
    dropped = 0.0
    for image, reverse in _image_couples(images):
        dense, present = _couple(folder, prefix, numbers, image, reverse, n_total)
        for sign, matrix, mask in ((1, dense, present), (-1, dense.T, present.T)):
            if sign < 0 and image == reverse:
                continue
            target = np.array(image) * sign
            for edge in np.flatnonzero((folded[:, :3] == target).all(axis=1)):
                i, j = pairs[edge, 3:]
                at = _block(geometry.starts, i, j)
                values[ends[edge] - shapes[edge].prod() : ends[edge]] = matrix[at].reshape(-1)
                written[edge] = mask[at].any()
                mask[at] = False
                if image == reverse:
                    mask[_block(geometry.starts, j, i)] = False
        dropped = max(dropped, float(abs(dense[present]).max(initial=0.0)))
    if not written.all():
        raise _missing(pairs[np.flatnonzero(~written)[0]], prefix)
    return Blocks(np.ascontiguousarray(pairs[:, 3:].T), pairs[:, :3].copy(), shapes, values), dropped


def _image_couples(images: Images) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    couples = {}
    for image in images.values():
        reverse = (-image[0], -image[1], -image[2])
        couples[max(image, reverse)] = min(image, reverse)
    return list(couples.items())


def _couple(
    folder: Path,
    prefix: str,
    numbers: dict[tuple[int, int, int], int],
    image: tuple[int, int, int],
    reverse: tuple[int, int, int],
    n_total: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Dense M(R) of one image completed with the transpose of M(-R), and which elements were written at all."""
    dense = np.zeros((n_total, n_total))
    present = np.zeros((n_total, n_total), dtype=bool)
    for which, transposed in ((image, False), (reverse, True)):
        if which not in numbers:
            continue
        rows, columns, found = read_records(folder / f"{prefix}_R_{numbers[which]}-1_0.csr", n_total)
        if transposed:
            rows, columns = columns, rows
        both = present[rows, columns]
        difference = float(abs(dense[rows, columns] - found)[both].max(initial=0.0))
        if difference > PARTNER_TOLERANCE:
            raise DataError(
                f"{prefix}: the elements of R = {image} and of its reverse differ by {difference:.1e}, "
                f"expected at most {PARTNER_TOLERANCE:.0e}; the table of periodic images does not belong to these files"
            )
        dense[rows, columns] = found
        present[rows, columns] = True
    return dense, present


def _block(starts: NDArray[np.int64], i: int, j: int) -> tuple[slice, slice]:
    return slice(int(starts[i]), int(starts[i + 1])), slice(int(starts[j]), int(starts[j + 1]))


def _missing(pair: NDArray[np.int64], prefix: str) -> DataError:
    x, y, z, i, j = (int(value) for value in pair)
    return DataError(
        f"{prefix}: the pair of atoms {i} and {j} with R = ({x}, {y}, {z}) lies within the cutoff but neither it nor "
        "its partner has a matrix element; check that all periodic images and the positions belong to the same run"
    )
