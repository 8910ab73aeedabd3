"""Building a method by name."""

import pytest

import thunderstone
from thunderstone.attachment.method import Method  # loaded before a test takes installed packages out of sight
from thunderstone.errors import ArgumentError, BrokenPluginError

SOURCE = """
from thunderstone import ArgumentError, Method, MethodSpec, hookimpl

class Shake(Method):
    name = "shake"

    def __init__(self, amount: float, axis: str = "x", *, twice: bool = False) -> None:
        if amount < 0:
            raise ArgumentError("Shake", "amount", amount, "it must be 0 or more", "use 0.1")
        self.amount, self.axis, self.twice = amount, axis, twice

class Impostor:
    pass

@hookimpl
def thunderstone_methods():
    return [
        MethodSpec("shake", "shaking:Shake", "shaking", "Shakes."),
        MethodSpec("impostor", "shaking:Impostor", "shaking", "Is no method."),
        MethodSpec("missing", "shaking.gone:Gone", "shaking", "Is not there."),
    ]
"""


@pytest.fixture(autouse=True)
def _shaking(install):
    install("shaking", "shaking", SOURCE)


def test_it_builds_a_method_with_the_arguments():
    method = thunderstone.create("shake", amount=0.5, twice=True)
    assert isinstance(method, Method)
    assert method.arguments == {"amount": 0.5, "axis": "x", "twice": True}
    assert thunderstone.create("shake", amount=0.5) is not method


def test_an_unknown_argument_gets_the_nearest_name():
    with pytest.raises(ArgumentError, match=r"Shake: amont=1 is not allowed.*Did you mean 'amount'\?") as caught:
        thunderstone.create("shake", amont=1)
    assert (caught.value.argument, caught.value.value) == ("amont", 1)


def test_a_missing_argument_is_named():
    with pytest.raises(ArgumentError, match=r"Shake: amount=None.*no default and was not given.*pass amount="):
        thunderstone.create("shake", axis="y")


def test_the_class_has_the_last_word():
    with pytest.raises(ArgumentError, match=r"Shake: amount=-1 is not allowed: it must be 0 or more"):
        thunderstone.create("shake", amount=-1)


def test_what_is_no_method_is_refused():
    with pytest.raises(BrokenPluginError, match=r"'impostor' points to 'shaking:Impostor'.*not a subclass of"):
        thunderstone.create("impostor")


def test_a_target_that_cannot_be_imported_is_the_plugins_failure():
    with pytest.raises(
        BrokenPluginError, match=r"method 'missing' points to 'shaking.gone:Gone', which cannot be impo"
    ):
        thunderstone.create("missing")
    assert list(thunderstone.methods()) == ["impostor", "missing", "shake"]
