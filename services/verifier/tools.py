"""What graders may use: the sandbox, the math workers, compilers, and the limits in force."""

from __future__ import annotations

from dataclasses import dataclass, field

from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.pool import SandboxPool
from rgopd.verifier.spec import LimitOverrides, Spec
from rgopd.verifier.symbolic.pool import SymbolicPool
from rgopd.verifier.toolchains import Toolchains


@dataclass(frozen=True)
class Tools:
    """What graders may use."""

    sandbox: SandboxPool
    symbolic: SymbolicPool
    default_limits: Limits
    maximum_limits: Limits
    toolchains: Toolchains = field(default_factory=lambda: Toolchains({}))

    def limits(self, spec: Spec) -> Limits:
        """The limits of an item."""
        overrides = spec.limits or LimitOverrides()
        return overrides.over(self.default_limits, self.maximum_limits)
