"""The first half of the contract: hooks a plug-in package implements to declare what it offers.

A plug-in package names one *light* module (it imports neither torch nor Lightning) in the entry-point group
``thunderstone`` and implements these hooks there:

.. code-block:: toml

    [project.entry-points.thunderstone]
    averaging = "thunderstone_averaging.plugin"

.. code-block:: python

    # thunderstone_averaging/plugin.py
    from thunderstone import MethodSpec, hookimpl

    @hookimpl
    def thunderstone_methods():
        return [MethodSpec("swa", "thunderstone_averaging.swa:SWA", "averaging", "Averages late weights.")]
"""

from __future__ import annotations

from thunderstone.markers import hookspec
from thunderstone.specs import MethodSpec, StrategySpec

GROUP = "thunderstone"
"""The entry-point group plug-in packages register in."""


class DiscoveryHooks:
    """Namespace of the hook specifications; never instantiated."""

    @hookspec
    def thunderstone_methods(self) -> list[MethodSpec]:  # type: ignore[empty-body]
        """Declare the methods of this package.

        Called once a process, when a method or strategy is first looked up or listed. Any package with an entry point
        in the group ``thunderstone`` may implement it. It takes no arguments.

        Returns:
            A list of `MethodSpec`. A name may be declared once; a second package that claims it makes the name
            unusable until one of the two is uninstalled or disabled.

        Example:
            .. code-block:: python

                @hookimpl
                def thunderstone_methods():
                    return [MethodSpec("sam", "thunderstone_sharpness.sam:SAM", "sharpness", "Flat minima.")]
        """

    @hookspec
    def thunderstone_strategies(self) -> list[StrategySpec]:  # type: ignore[empty-body]
        """Declare the strategies of this package: pure functions or small classes that methods call.

        Called once a process, right after `thunderstone_methods` of the same package. Any package with an entry point
        in the group ``thunderstone`` may implement it, also for a kind that another package's method reads. It takes
        no arguments.

        Returns:
            A list of `StrategySpec`. A pair of kind and name may be declared once.

        Example:
            .. code-block:: python

                @hookimpl
                def thunderstone_strategies():
                    return [StrategySpec("sharpness.perturbation", "l1", "my_package.l1:l1_direction", "The l1 ball.")]
        """


HOOK_NAMES = tuple(sorted(name for name in vars(DiscoveryHooks) if name.startswith("thunderstone_")))
