"""What is on disk -> structures with their Hamiltonian and overlap blocks in one convention, Å and eV."""

from tracegrad.data.blocks import Blocks as Blocks
from tracegrad.data.databases import DATABASES as DATABASES
from tracegrad.data.databases import Database as Database
from tracegrad.data.dataset import Dataset as Dataset
from tracegrad.data.dataset import StructureSequence as StructureSequence
from tracegrad.data.dataset import load_dataset as load_dataset
from tracegrad.data.deeph import read_deeph as read_deeph
from tracegrad.data.deeph_write import open_deeph as open_deeph
from tracegrad.data.deeph_write import write_deeph as write_deeph
from tracegrad.data.structure import Structure as Structure
