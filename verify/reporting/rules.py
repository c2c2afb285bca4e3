"""What each check stands for, in words that do not change: the rules of SARIF and the test names of JUnit."""

from __future__ import annotations

from dataclasses import dataclass

DOCUMENT = "docs/verification.md"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
        identifier: stable name, never reused for another meaning.
        title: one line.
        help: what a violation means and what to do.
    """

    identifier: str
    title: str
    help: str


_RULES = {
    "rotation": (
        "f(R x) = D(R) f(x)",
        "Outputs do not turn with the inputs. Look for operations on single components of an irrep.",
    ),
    "inversion": (
        "f(-r) carries the declared parities",
        "A parity is wrong: an even function on 0o, or a cross product called 1o.",
    ),
    "translation": ("f(r + t) = f(r)", "Absolute coordinates enter. Use differences of positions."),
    "node_permutation": (
        "f(P x) = P f(x) for nodes",
        "The order of the atoms enters. Look for uses of the node index.",
    ),
    "edge_permutation": (
        "f does not depend on the order of edges",
        "The order of the edges enters, or one is cut by its index.",
    ),
    "batch_independence": ("a structure in a batch is as alone", "Statistics run over the batch."),
    "far_fragment": ("a far fragment changes nothing", "Statistics run over the whole graph."),
    "force_consistency": ("forces are minus the gradient of the energy", "The forces do not belong to the energy."),
    "budget": ("the error in meV stays within the budget", "An approximately equivariant model is too far off."),
    "pole": ("directions on and near the coordinate axes", "A frame or a branch loses digits near an axis."),
    "depth": ("the error does not grow with depth", "Round-off is amplified from layer to layer."),
    "gradient": ("gradients are equivariant", "The backward pass breaks the symmetry."),
    "finite_difference": ("gradients are derivatives", "A branch is detached or a backward pass is wrong."),
    "jvp_vjp": ("forward and reverse mode agree", "One of the two modes of differentiation is wrong."),
    "lie_derivative": ("infinitesimal rotations", "The derivative along a rotation does not vanish."),
    "determinism": ("the same input gives the same output", "Dropout or noise is left on."),
    "inference": ("the same outputs without gradients", "The path that runs under torch.no_grad() is another one."),
    "input_mutation": ("inputs stay as they were", "An in-place operation changes the caller's tensors."),
    "dtype_leak": ("one precision throughout", "A tensor is rounded to a narrower type on the way."),
    "vacuity": ("there is something to verify", "Outputs are NaN, zero, or do not depend on the inputs."),
    "search": (
        "no counterexample in an adversarial search",
        "A special geometry breaks the symmetry: poles, planes, zeros.",
    ),
    "hermiticity": ("H(j, i, -R) = H(i, j, R)^dagger", "The two directions of an edge disagree."),
    "time_reversal": ("time reversal of non-magnetic data", "Spinful blocks do not obey time reversal."),
    "supercell": ("a tiled crystal gives tiled blocks", "The choice of the cell enters."),
    "theorem_1": ("the trace label is the invariant norm", "The label is not invariant, or is not the Frobenius norm."),
    "theorem_2": (
        "the induced feature is an equivariant gradient",
        "v does not carry the irreps of f, or is no gradient.",
    ),
    "orbital_convention": (
        "recomputed Hamiltonians equal D H D^dagger",
        "D, the order of the orbitals or a phase is wrong.",
    ),
    "block_irreps": ("blocks and irreps agree", "The change of basis between blocks and irreps is wrong."),
    "hermitian_partner": ("signs of the reverse block", "The irreps of the reverse block have a wrong sign."),
    "kill_matrix": ("every planted fault is found, no control is flagged", "The verifier itself has lost a check."),
    "self_check": ("the instruments are accurate", "The verifier's own matrices are too noisy to judge anything."),
    "baseline": ("the error does not grow tenfold", "The error is far above that of the baseline report."),
}


def rule_of(check: str) -> Rule:
    """Rule of a check; checks of settings, such as ``"DeepHE3: rotation"``, have the rule of their last part.

    Args:
        check: name of the check.

    Returns:
        Its rule; one made from the name when it is not in the list.
    """
    key = check.rsplit(":", 1)[-1].strip().replace(" ", "_").replace("-", "_")
    title, text = _RULES.get(key, (key.replace("_", " "), "The check failed; see its message."))
    return Rule(f"equivariance/{key}", title, text)
