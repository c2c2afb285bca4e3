"""Networks: graph -> Hamiltonian blocks."""

from tracegrad.model.build import build_model as build_model
from tracegrad.model.build import build_network as build_network
from tracegrad.model.chunked import frame_degree as frame_degree
from tracegrad.model.chunked import predict_in_chunks as predict_in_chunks
from tracegrad.model.decoder import HamiltonianDecoder as HamiltonianDecoder
from tracegrad.model.decoder import TraceDecoder as TraceDecoder
from tracegrad.model.deephe3 import DeepHE3 as DeepHE3
from tracegrad.model.deephe3 import Induction as Induction
from tracegrad.model.deephe3 import NetworkSizes as NetworkSizes
from tracegrad.model.gradient_induction import GradientInduction as GradientInduction
from tracegrad.model.harmose import HarmoSE as HarmoSE
from tracegrad.model.invariant_head import InvariantHead as InvariantHead
from tracegrad.model.output import OutputTransform as OutputTransform
from tracegrad.model.predict import predict_blocks as predict_blocks
