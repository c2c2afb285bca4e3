"""Recorded CP2K outputs, unpacked for each test, so that a test may damage its copy."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tracegrad.data.dft import cp2k
from tracegrad.data.dft.calculation import Calculation, read_run

RECORDED = Path(__file__).parent / "recorded"


def _load_record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dft_recordings", RECORDED / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recordings() -> dict[str, Any]:
    """Return the requests behind the recorded runs by name."""
    return _load_record().RECORDINGS


@pytest.fixture(params=["carbon_dimer", "bismuth_dimer"])
def recorded(request: pytest.FixtureRequest) -> str:
    """Run the test on both recordings."""
    return request.param


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that unpacks a recorded run into a fresh folder."""

    def unpack_one(name: str) -> Path:
        folder = tmp_path / name
        shutil.unpack_archive(RECORDED / f"{name}.tar.xz", folder, filter="data")
        return folder

    return unpack_one


@pytest.fixture
def read(recordings: dict[str, Any], unpack: Callable[[str], Path]) -> Callable[..., Calculation]:
    """Return a function that reads a recorded run: (name, folder=None, atoms=None, output=None) -> Calculation."""

    def read_one(name: str, folder: Path | None = None, atoms: Any = None, output: Any = None) -> Calculation:
        folder = folder or unpack(name)
        request = recordings[name]
        text = (folder / cp2k.OUTPUT_NAME).read_text(encoding="utf-8")
        return read_run(request, atoms or request.atoms(), output or cp2k.parse_output(text), folder)

    return read_one
