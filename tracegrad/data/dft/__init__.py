"""Making more data: geometry, CP2K, real-space matrices, vacuum alignment, spin-orbit operator."""

from tracegrad.data.dft.calculation import Calculation as Calculation
from tracegrad.data.dft.calculation import Request as Request
from tracegrad.data.dft.calculation import calculate as calculate
from tracegrad.data.dft.calculation import read_run as read_run
from tracegrad.data.dft.geometry import Twist as Twist
from tracegrad.data.dft.geometry import find_twist as find_twist
from tracegrad.data.dft.geometry import make_structure as make_structure
from tracegrad.data.dft.systems import SYSTEMS as SYSTEMS
from tracegrad.data.dft.systems import System as System
