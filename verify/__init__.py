"""Equivariance verification of any function, e3nn module or graph model, with its own rotations and Wigner-D."""

from .result import BlockError as BlockError
from .result import CheckResult as CheckResult
from .result import Counterexample as Counterexample
from .result import ModuleError as ModuleError
from .result import NoiseFloor as NoiseFloor
from .result import Report as Report
from .result import Verdict as Verdict
