"""The discovery half of the contract is what its documentation says."""

import inspect
import sys
import warnings

import pluggy
import pytest

import thunderstone
from thunderstone.cli.docstrings import parse_docstring
from thunderstone.discovery import HOOK_NAMES, DiscoveryHooks, registry
from thunderstone.discovery.declarations import registered
from thunderstone.markers import PROJECT, ContractWarning, hookspec, leaving

SECTIONS = ["When", "Ranks", "Implemented by", "Returns", "Example"]


def test_the_hooks_are_the_documented_ones():
    assert HOOK_NAMES == ("thunderstone_methods", "thunderstone_strategies")


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_every_hook_is_a_specification_and_takes_no_arguments(name):
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(DiscoveryHooks)
    assert getattr(manager.hook, name).spec.argnames == ()


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_every_hook_says_when_it_is_called_by_whom_and_what_it_returns(name):
    described = parse_docstring(getattr(DiscoveryHooks, name).__doc__)
    assert described.text
    assert list(described.sections) == SECTIONS
    assert all(described.sections.values())


def example(name):
    text = parse_docstring(getattr(DiscoveryHooks, name).__doc__).sections["Example"]
    return inspect.cleandoc(text.partition(".. code-block:: python")[2])


def test_the_example_of_thunderstone_methods_is_a_plugin(install):
    install("averaging", "averaging", example("thunderstone_methods"))
    assert thunderstone.methods()["swa"].target == "thunderstone_averaging.swa:SWA"
    assert registry().plugins[0].strategies == ()


def test_the_example_of_thunderstone_strategies_is_a_plugin(install):
    path = install("my-package", "mine", example("thunderstone_strategies"), value="plugin")
    path.rename(path.with_name("plugin.py"))
    path.with_name("my_package").mkdir()
    (path.with_name("my_package") / "l1.py").write_text("def l1_direction():\n    return 'the l1 ball'\n")
    try:
        assert thunderstone.strategy("sharpness.perturbation", "l1")() == "the l1 ball"
    finally:
        for module in ("plugin", "my_package", "my_package.l1"):
            sys.modules.pop(module, None)


# -- what is going to leave the contract -------------------------------------------------------------------------------

GOING = leaving("the hook 'thunderstone_methods'", since="1.1", until="2.0", instead="implement 'thunderstone_all'")
ARGUMENT = leaving("the argument 'config' of 'thunderstone_methods'", since="1.1", until="2.0", instead="leave it out")
METHODS = (
    "from thunderstone import MethodSpec, hookimpl\n\n"
    "@hookimpl\n"
    "def thunderstone_methods({}):\n"
    "    return [MethodSpec('alpha', 'a:A', 'family', 'Summary.')]\n"
)


class Leaving:
    """A contract from which a hook is going to be taken."""

    @hookspec(warn_on_impl=GOING)
    def thunderstone_methods(self): ...

    @hookspec
    def thunderstone_strategies(self): ...


class LosingAnArgument(Leaving):
    """A contract from which an argument of a hook is going to be taken."""

    @hookspec(warn_on_impl_args={"config": ARGUMENT})
    def thunderstone_methods(self, config=None): ...


@pytest.mark.parametrize(
    ("contract", "arguments", "said"),
    [(Leaving, "", GOING), (LosingAnArgument, "config", ARGUMENT), (LosingAnArgument, "", None)],
)
def test_what_is_going_to_leave_is_announced_to_the_user_and_works_until_then(
    install, monkeypatch, contract, arguments, said
):
    monkeypatch.setattr("thunderstone.discovery.declarations.DiscoveryHooks", contract)
    monkeypatch.setattr("thunderstone.discovery.plugins.declared", lambda manager, hook, _: _called(manager, hook))
    path = install("fam-a", "a", METHODS.format(arguments))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        registry()
    (record,) = registry().plugins
    assert (record.state, [spec.name for spec in record.methods]) == ("ok", ["alpha"])
    announced = [each for each in warned if each.category is ContractWarning]
    assert [(str(each.message), each.filename, each.lineno) for each in announced] == (
        [] if said is None else [(str(said), str(path), 3)]
    )
    assert record.deprecated == (() if said is None else (str(said),))


def _called(manager, hook):
    caller = getattr(manager.hook, hook)
    arguments = {"config": None} if "config" in caller.spec.argnames else {}
    return tuple(spec for specs in caller(**arguments) for spec in specs)


def test_an_announcement_says_what_since_when_until_when_and_what_to_do():
    assert str(GOING) == (
        "the hook 'thunderstone_methods' leaves thunderstone's contract with version 2.0 (deprecated since 1.1). "
        "HINT: implement 'thunderstone_all'"
    )
    assert issubclass(ContractWarning, FutureWarning), "which Python shows to everybody"


def test_today_nothing_is_going_to_leave():
    class Both:
        @thunderstone.hookimpl
        def thunderstone_methods(self):
            return []

    assert registered("both", Both()).hook.thunderstone_methods.spec.warn_on_impl is None
