"""The discovery half of the contract is what its documentation says."""

import inspect

import pluggy
import pytest

from thunderstone.discovery import HOOK_NAMES, DiscoveryHooks
from thunderstone.markers import PROJECT


def test_the_hooks_are_the_documented_ones():
    assert HOOK_NAMES == ("thunderstone_methods", "thunderstone_strategies")


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_every_hook_is_a_specification_and_takes_no_arguments(name):
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(DiscoveryHooks)
    assert getattr(manager.hook, name).spec.argnames == ()


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_every_hook_says_when_it_is_called_by_whom_and_what_it_returns(name):
    text = inspect.getdoc(getattr(DiscoveryHooks, name))
    for part in ("Called once a process", "may implement it", "Returns:", "Example:", "@hookimpl"):
        assert part in text


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_the_example_in_the_documentation_is_a_plugin(name, install):
    from thunderstone.discovery import registry

    text = inspect.getdoc(getattr(DiscoveryHooks, name)).partition(".. code-block:: python")[2]
    install(
        "example", "example", "from thunderstone import MethodSpec, StrategySpec, hookimpl\n\n" + inspect.cleandoc(text)
    )
    (record,) = registry().plugins
    assert record.state == "ok", record.reason
    assert len(record.methods) + len(record.strategies) == 1
