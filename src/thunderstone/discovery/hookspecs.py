"""The first half of the contract: hooks a plug-in package implements to declare what it offers.

A plug-in package names one *light* module (it imports neither torch nor Lightning) in the entry-point group
``thunderstone`` and implements these hooks there:

.. code-block:: toml

    [project.entry-points.thunderstone]
    averaging = "thunderstone_averaging.plugin"

The module may say which version of the contract it was written for, ``THUNDERSTONE_API = "1.0"``; a host that has
another one refuses it by name instead of failing somewhere inside of it.
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
        """Declare the methods of a package.

        When:
            Once a process, when a method or strategy is first looked up or listed. On the command line in a child
            process before, which may crash or hang in the place of this one.

        Ranks:
            Every process that looks up a name.

        Implemented by:
            The light module that a package names in the entry-point group ``thunderstone``; any package may.

        Returns:
            A list of `MethodSpec`. A name may be declared once; a second package that claims it makes the name
            unusable until one of the two is uninstalled or disabled.

        Example:
            .. code-block:: python

                from thunderstone import MethodSpec, hookimpl

                THUNDERSTONE_API = "1.0"


                @hookimpl
                def thunderstone_methods() -> list[MethodSpec]:
                    return [MethodSpec("swa", "thunderstone_averaging.swa:SWA", "averaging", "Averages late weights.")]
        """

    @hookspec
    def thunderstone_strategies(self) -> list[StrategySpec]:  # type: ignore[empty-body]
        """Declare the strategies of a package: pure functions or small classes that methods call.

        When:
            Right after `thunderstone_methods` of the same package.

        Ranks:
            Every process that looks up a name.

        Implemented by:
            The light module that a package names in the entry-point group ``thunderstone``; any package may, also for a
            kind that another package's method reads.

        Returns:
            A list of `StrategySpec`. A pair of kind and name may be declared once.

        Example:
            .. code-block:: python

                from thunderstone import StrategySpec, hookimpl

                THUNDERSTONE_API = "1.0"


                @hookimpl
                def thunderstone_strategies() -> list[StrategySpec]:
                    return [StrategySpec("sharpness.perturbation", "l1", "my_package.l1:l1_direction", "The l1 ball.")]
        """


HOOK_NAMES = tuple(sorted(name for name in vars(DiscoveryHooks) if name.startswith("thunderstone_")))
