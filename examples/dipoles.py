"""The gradient operator in a plain e3nn network on another task, dipole moments of molecules, gated by the verifier."""

import torch
from e3nn import o3

from tracegrad import GradientInduction
from tracegrad.verify import verify_equivariance

torch.manual_seed(0)
# atomic numbers (160, 4), padded with 0; positions (160, 4, 3) in Å; dipole moments (160, 3) in Debye
z, x, dipoles, _ = torch.load("examples/dipoles.pt", weights_only=True).values()
embed, message = torch.nn.Embedding(9, 4, 0), o3.FullyConnectedTensorProduct("128x0e", "0e+1o+2e", "16x0e+16x1o+8x2e")
induction, readout = GradientInduction(message.irreps_out, 32, 16), o3.Linear(message.irreps_out, "1o")
optimizer = torch.optim.Adam(torch.nn.ModuleList([embed, message, induction, readout]).double().parameters(), lr=0.01)


def dipole(x, z):
    shells = torch.exp(-4 * (torch.cdist(x, x)[..., None] - torch.linspace(0.0, 3.5, 8).to(x)) ** 2)
    pairs = torch.einsum("...ia,...jb,...ijc->...ijabc", embed(z), embed(z), shells).flatten(-3)
    f = message(pairs, o3.spherical_harmonics([0, 1, 2], x[..., None, :, :] - x[..., :, None, :], False)).sum(-2)
    return readout(f + induction(f)[1]).sum(-2)  # (z, v) = induction(f); z, left out here, can learn invariant labels


for _ in range(300):
    optimizer.zero_grad()
    (dipole(x[:120], z[:120]) - dipoles[:120]).square().mean().backward()
    optimizer.step()
report = verify_equivariance(dipole, ["cartesian_points", None], ["1x1o"], inputs=[x[2], z[2]])
print(report.to_text(), f"test MAE {1e3 * (dipole(x[120:], z[120:]) - dipoles[120:]).abs().mean():.1f} mD", sep="\n")
