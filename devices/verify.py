"""Verification: the golden vectors of a bundle on a runtime and a device, tensor by tensor."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from devices.agent import Place
from devices.deployment import deployed, opened
from devices.golden import Golden, TensorDifference
from devices.measure import require_parity
from devices.profile import profile


@dataclass(frozen=True)
class Verified:
    """Where a bundle ran, and how its golden vectors compare with the oracle's and the exporting host's."""

    device: str
    runtime: str
    mode: str
    stepwise: bool
    """Every node was fed by the oracle; otherwise differences add up over the model."""
    place: Place
    golden: Golden

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def require(self) -> None:
        """Do nothing when the outputs are what they must be. Raises ParityError."""
        require_parity(self.golden, self.mode, f"{self.device}, {self.runtime}", cpu=self.place.cpu)


def verify(bundle: Path, device: str, runtime: str) -> Verified:
    """Run the golden vectors of a bundle on a device.

    Raises:
        UsageError: the device or the runtime is unknown, or the bundle is for another runtime.
        BundleError: the bundle is altered or does not fit its golden vectors. DeviceError: the device failed.
    """
    facts, (adapter, _) = profile(device), opened(bundle, runtime)
    with deployed(bundle, runtime, facts) as agent:
        place, golden = agent.golden()
    return Verified(facts.name, runtime, adapter.MODE, adapter.STEPWISE, place, golden)


def table(verified: Verified, *, by_tensor: bool) -> Table:
    """Return the parity table: a row a kind of node, or a row a tensor."""
    golden = verified.golden
    first = ("tensor", "node") if by_tensor else ("node", "tensors")
    found = Table(
        *first,
        "values",
        "largest difference, LSB",
        "SQNR, dB",
        title=f"{verified.runtime} ({verified.mode}) on {verified.device} against the oracle",
        caption=f"{golden.agreeing} of {golden.images} golden images get the oracle's class"
        + (", nodes fed by the oracle" if verified.stepwise else ""),
    )
    if by_tensor:
        for tensor in golden.tensors:
            found.add_row(tensor.name, tensor.kind, f"{tensor.values:,}", *_difference([tensor]))
        return found
    kinds: dict[str, list[TensorDifference]] = {}
    for tensor in golden.tensors:
        kinds.setdefault(tensor.kind, []).append(tensor)
    for kind, tensors in kinds.items():
        values = sum(tensor.values for tensor in tensors)
        found.add_row(kind, str(len(tensors)), f"{values:,}", *_difference(tensors))
    return found


def _difference(tensors: Sequence[TensorDifference]) -> tuple[str, str]:
    """Return the largest difference and the worst ratio in words."""
    ratios = [tensor.sqnr_db for tensor in tensors if tensor.sqnr_db is not None]
    if not ratios:
        return "equal, bit for bit", "–"
    return str(max(tensor.max_lsb for tensor in tensors)), f"{min(ratios):.1f}"
