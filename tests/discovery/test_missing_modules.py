"""An import that fails for want of a module says what to install, and never guesses."""

import sys

import pytest

import thunderstone
from thunderstone.discovery import registry
from thunderstone.errors import BrokenPluginError

NEEDS = (
    "Provides-Extra: more\n"
    "Provides-Extra: images\n"
    "Requires-Dist: not-there-always<3\n"
    "Requires-Dist: not.there_at-all>=2; extra == 'more'\n"
    "Requires-Dist: scikit-gone; python_version >= '3' and extra == 'images'\n"
    "Requires-Dist: (damaged\n"
)


@pytest.fixture
def hint_of(install):
    def load(source, **options):
        install("zz-needs", "zz", source, metadata=NEEDS, **options)
        (record,) = registry().plugins
        assert record.state == "failed"
        return record.hint.removesuffix(", or set THUNDERSTONE_DISABLE=zz")

    return load


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("import not_there_at_all.deeper", "pip install 'zz-needs[more]'"),
        ("import scikit_gone", "pip install 'zz-needs[images]'"),
        ("import not_there_always", "pip install 'not-there-always<3'"),
        ("import nobody_knows", "install what provides the module 'nobody_knows'"),
        ("import importlib.gone", "fix or uninstall zz-needs"),
        ("raise ModuleNotFoundError('by hand')", "fix or uninstall zz-needs"),
        ("raise ImportError('of another kind', name='torch')", "fix or uninstall zz-needs"),
    ],
)
def test_what_is_missing_is_what_to_install(hint_of, source, hint):
    assert hint_of(source) == hint


@pytest.mark.parametrize("module", ["zz_gone.plugin", "zz_needs.plugin"])
def test_an_entry_point_to_a_module_that_is_not_there_asks_for_no_stranger(hint_of, module):
    missing = "zz_gone" if module == "zz_gone.plugin" else module
    hint = f"reinstall or fix zz-needs, which names its own module {missing!r} and does not have it"
    assert hint_of("", value=module) == hint


def test_a_method_that_needs_an_extra_says_so_when_it_is_asked_for(install):
    source = (
        "from thunderstone import MethodSpec, hookimpl\n"
        "@hookimpl\n"
        "def thunderstone_methods():\n"
        "    return [MethodSpec('m', 'zz_method:M', 'family', 'Summary.')]\n"
    )
    path = install("zz-needs", "zz", source, metadata=NEEDS, value="zz_needs")
    path.with_name("zz_method.py").write_text("import not_there_at_all\n")
    with pytest.raises(BrokenPluginError, match=r"No module named 'not_there_at_all'. HINT: `thunderstone doctor`"):
        thunderstone.create("m")  # a module that no plug-in's package has is nobody's
    path.write_text(source.replace("zz_method:M", "zz_needs.method:M"))
    path.with_name("zz_needs").mkdir()
    path.rename(path.with_name("zz_needs") / "__init__.py")
    (path.with_name("zz_needs") / "method.py").write_text("import not_there_at_all\n")
    thunderstone.discovery.refresh()
    sys.modules.pop("zz_needs")
    with pytest.raises(BrokenPluginError, match=r"HINT: pip install 'zz-needs\[more\]'$"):
        thunderstone.create("m")


def test_a_method_whose_module_ends_the_program_does_not(install):
    source = (
        "from thunderstone import MethodSpec, hookimpl\n"
        "@hookimpl\n"
        "def thunderstone_methods():\n"
        "    return [MethodSpec('m', 'zz_needs_method:M', 'family', 'Summary.')]\n"
    )
    install("zz-needs", "zz", source).with_name("zz_needs_method.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(BrokenPluginError, match=r"which cannot be imported: SystemExit: 3"):
        thunderstone.create("m")
