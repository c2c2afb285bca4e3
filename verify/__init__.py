"""Equivariance verification of any function, e3nn module or graph model, with its own rotations and Wigner-D."""

from .adapter_data import DataAdapter as DataAdapter
from .adapters import GraphAdapter as GraphAdapter
from .api import EquivarianceError as EquivarianceError
from .api import assert_equivariant as assert_equivariant
from .api import verify_equivariance as verify_equivariance
from .api import verify_model as verify_model
from .fields import Field as Field
from .graph_subject import replay_model as replay_model
from .replay import replay as replay
from .result import BlockError as BlockError
from .result import CheckResult as CheckResult
from .result import Counterexample as Counterexample
from .result import ModuleError as ModuleError
from .result import NoiseFloor as NoiseFloor
from .result import Report as Report
from .result import Verdict as Verdict
from .selfcheck import self_check as self_check
from .targets import Target as Target
