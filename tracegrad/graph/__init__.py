"""Structure -> ``torch_geometric`` graph: edges, frames, targets."""

from tracegrad.graph.build import SAME_ATOM as SAME_ATOM
from tracegrad.graph.build import Pairs as Pairs
from tracegrad.graph.build import add_targets as add_targets
from tracegrad.graph.build import build_graph as build_graph
from tracegrad.graph.build import cast_graph as cast_graph
from tracegrad.graph.build import graph_from_pairs as graph_from_pairs
from tracegrad.graph.build import graph_of_pairs as graph_of_pairs
from tracegrad.graph.build import half_keys as half_keys
from tracegrad.graph.build import structure_pairs as structure_pairs
from tracegrad.graph.chunks import PairChunks as PairChunks
from tracegrad.graph.collate import collate as collate
from tracegrad.graph.layout import Channel as Channel
from tracegrad.graph.layout import TargetLayout as TargetLayout
from tracegrad.graph.rotate import rotate_graph as rotate_graph
from tracegrad.graph.targets import blocks_to_irreps as blocks_to_irreps
from tracegrad.graph.targets import irreps_to_blocks as irreps_to_blocks
