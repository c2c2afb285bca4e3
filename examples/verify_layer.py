"""Gate any function by its irreps; a broken one is answered with the smallest counterexample found."""

import torch
from e3nn.nn import Gate

from tracegrad.verify import verify_equivariance

gate = Gate("8x0e", [torch.nn.functional.silu], "4x0e", [torch.sigmoid], "4x1o")
report = verify_equivariance(gate, [gate.irreps_in], [gate.irreps_out])
print(report.to_text())
