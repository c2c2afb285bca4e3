"""The gradient operator in a plain e3nn network on another task: dipole moments of molecules, gated by the verifier."""

from pathlib import Path

import numpy as np
import torch
from e3nn import nn, o3

from tracegrad import GradientInduction
from tracegrad.verify import Report, verify_equivariance


class DipoleNetwork(torch.nn.Module):
    """Positions (M, 4, 3) in Å and atomic numbers (M, 4), padded with 0 -> dipole moments (M, 3) in Debye."""

    def __init__(self, induce: bool) -> None:
        super().__init__()
        hidden, harmonics = o3.Irreps("16x0e + 16x1o + 8x2e"), o3.Irreps.spherical_harmonics(2)
        self.harmonics, self.embedding = harmonics, torch.nn.Embedding(10, 16)
        self.message = o3.FullyConnectedTensorProduct("16x0e", harmonics, hidden, shared_weights=False)
        self.radial = nn.FullyConnectedNet([16, 32, self.message.weight_numel], torch.nn.functional.silu)
        self.induction = GradientInduction(hidden, width=32, num_invariants=16) if induce else None
        self.readout = o3.Linear(hidden, "1x1o")

    def forward(self, positions: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        atom = numbers > 0
        m, i, j = (atom[:, :, None] & atom[:, None, :] & ~torch.eye(4, dtype=torch.bool)).nonzero(as_tuple=True)
        vectors = positions[m, j] - positions[m, i]
        centres = torch.linspace(0.5, 3.5, 8).to(positions)
        shells = torch.exp(-(((vectors.norm(dim=1, keepdim=True) - centres) / 0.4) ** 2))
        sources = self.embedding(numbers[m, j].long())
        radial = self.radial(torch.cat([shells, self.embedding(numbers[m, i].long())[:, :8]], dim=1))
        harmonics = o3.spherical_harmonics(self.harmonics, vectors, normalize=True)
        f = torch.zeros(*numbers.shape, self.message.irreps_out.dim).to(positions)
        f = f.index_put((m, i), self.message(sources, harmonics, radial), accumulate=True)
        if self.induction is not None:
            _, v = self.induction(f.flatten(0, 1))  # z, left out here, can be trained on invariant labels
            f = f + v.view_as(f)
        return (self.readout(f) * atom[:, :, None]).sum(1)


def main(steps: int = 300) -> tuple[list[float], Report]:
    """Train without and with the operator; return the two test errors (Debye) and the verifier's report."""
    errors = []
    with np.load(Path(__file__).with_name("dipoles.npz")) as file:
        numbers, positions, dipoles = (torch.from_numpy(file[k]) for k in ("numbers", "positions", "dipoles"))
    train, test = slice(0, 120), slice(120, None)
    for induce in (False, True):
        torch.manual_seed(0)
        network = DipoleNetwork(induce).double()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            (network(positions[train], numbers[train]) - dipoles[train]).square().mean().backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            errors.append(float((network(positions[test], numbers[test]) - dipoles[test]).abs().mean()))
    report = verify_equivariance(
        lambda x, n: network(x[None], n[None]),
        ["cartesian_points", None],
        ["1x1o"],
        inputs=[positions[2], numbers[2]],
        trials=16,
    )
    return errors, report


if __name__ == "__main__":
    (without, with_operator), verdict = main()
    print(f"test MAE without the operator {1e3 * without:.1f} mD, with it {1e3 * with_operator:.1f} mD")
    print(verdict.to_text())
