"""The checks: each takes a :class:`~..context.Context` and returns one verdict, or says that it does not apply."""

from ..runner import Check
from .budget import budget
from .forces import force_consistency
from .gradient import finite_difference, gradient, jvp_vjp
from .graph import batch_independence, cell_choice, edge_permutation, far_fragment, supercell
from .graph import node_permutation as graph_node_permutation
from .hamiltonian import hermiticity, time_reversal
from .hygiene import determinism, dtype_leak, inference, input_mutation, vacuity
from .lie import lie_derivative
from .module import history, modes, weights
from .permutation import node_permutation
from .pole import pole
from .search import search
from .symmetry import inversion, rotation, translation

FUNCTION_CHECKS: dict[str, Check] = {
    "rotation": rotation,
    "inversion": inversion,
    "translation": translation,
    "node_permutation": node_permutation,
    "gradient": gradient,
    "finite_difference": finite_difference,
    "jvp_vjp": jvp_vjp,
    "lie_derivative": lie_derivative,
    "determinism": determinism,
    "inference": inference,
    "history": history,
    "modes": modes,
    "weights": weights,
    "input_mutation": input_mutation,
    "dtype_leak": dtype_leak,
    "vacuity": vacuity,
    "search": search,
    "pole": pole,
}
"""Checks of plain functions and modules, in the order of the report."""

GRAPH_CHECKS: dict[str, Check] = {
    "rotation": rotation,
    "inversion": inversion,
    "translation": translation,
    "node_permutation": graph_node_permutation,
    "edge_permutation": edge_permutation,
    "batch_independence": batch_independence,
    "far_fragment": far_fragment,
    "supercell": supercell,
    "cell_choice": cell_choice,
    "hermiticity": hermiticity,
    "time_reversal": time_reversal,
    "gradient": gradient,
    "finite_difference": finite_difference,
    "jvp_vjp": jvp_vjp,
    "force_consistency": force_consistency,
    "lie_derivative": lie_derivative,
    "determinism": determinism,
    "inference": inference,
    "history": history,
    "modes": modes,
    "weights": weights,
    "input_mutation": input_mutation,
    "dtype_leak": dtype_leak,
    "vacuity": vacuity,
    "search": search,
    "pole": pole,
    "budget": budget,
}
"""Checks of graph models, in the order of the report."""

OPTIONAL_CHECKS: frozenset[str] = frozenset({"budget"})
"""Checks that run only when they are named."""

EXACT_CHECKS: frozenset[str] = frozenset(
    {"rotation", "inversion", "modes", "weights", "gradient", "lie_derivative", "search", "pole"}
)
"""Checks that an approximately equivariant model cannot pass; a budget in meV takes their place."""
