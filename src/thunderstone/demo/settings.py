"""What the demo compares: names and arguments only, since the host knows no method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import thunderstone
from thunderstone.demo.results import BASELINE
from thunderstone.errors import RequestError, UnknownNameError

if TYPE_CHECKING:
    from thunderstone.attachment.method import Method

PACKAGE = "thunderstone-sharpness"


@dataclass(frozen=True)
class Setting:
    """One way to train the network.

    Attributes:
        label: What tables and pictures call it.
        method: Name of the method to attach; None attaches nothing.
        arguments: The method's arguments.
    """

    label: str
    method: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def callbacks(self) -> list[Method]:
        """A new instance of the method, in a list; empty where nothing is attached.

        Raises:
            RequestError: No installed package declares the method.
            DiscoveryError: The package that declares it is broken.
        """
        if self.method is None:
            return []
        try:
            return [thunderstone.create(self.method, **self.arguments)]
        except UnknownNameError as error:
            raise RequestError(
                f"demo: it compares plain training with {self.label}, and no installed package declares the method "
                f"{self.method!r}. HINT: pip install {PACKAGE}. ({error})"
            ) from error


# Radii chosen on other splits than those the demo shows (benchmarks/demo_radii.py). They are larger than the methods'
# defaults, which are for clean labels and large networks; much larger ones keep this network from learning at all.
SETTINGS = (
    Setting(BASELINE),
    Setting("SAM", "sam", {"rho": 0.5}),
    Setting("ASAM", "asam", {"rho": 2.5}),
)
