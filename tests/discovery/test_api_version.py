"""A plug-in says which contract it was written for, and one for another contract is refused by name."""

import pytest

import thunderstone
from thunderstone.discovery import registry
from thunderstone.discovery.api_version import check_api
from thunderstone.errors import ApiVersionError, BrokenPluginError, UnknownNameError

DECLARES = (
    "from thunderstone import MethodSpec, hookimpl\n"
    "@hookimpl\n"
    "def thunderstone_methods():\n"
    "    return [MethodSpec('alpha', 'a:A', 'family', 'Summary.')]\n"
)
NEWER = (
    f"it needs a newer thunderstone: it was written for contract 1.7, and thunderstone {thunderstone.__version__} has "
    f"contract {thunderstone.API_VERSION}"
)


def only_record():
    (record,) = registry().plugins
    return record


@pytest.mark.parametrize("declared", ["1.0", "1.1", "1.2"])
def test_the_same_major_and_no_newer_minor_fit(declared):
    check_api(declared, "fam-a", offered="1.2")


@pytest.mark.parametrize(
    ("declared", "offered", "reason", "hint"),
    [
        ("1.3", "1.2", "needs a newer thunderstone", "pip install --upgrade thunderstone"),
        ("1.10", "1.9", "needs a newer thunderstone", "pip install --upgrade thunderstone"),
        ("2.0", "1.9", "needs a newer thunderstone", "pip install --upgrade thunderstone"),
        ("1.9", "2.0", "needs an older thunderstone", "pip install --upgrade fam-a"),
    ],
)
def test_what_does_not_fit_says_why_and_what_to_do(declared, offered, reason, hint):
    with pytest.raises(ApiVersionError, match=reason) as caught:
        check_api(declared, "fam-a", offered=offered)
    assert f"written for contract {declared}, and" in caught.value.reason
    assert f"has contract {offered}" in caught.value.reason
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "declared", [1.0, 1, None, "1", "1.0.0", "one", "1.0\n", "v1.0", "-1.0", "", ("1", "0"), "١.٠"]
)
def test_what_is_no_version_is_said(declared):
    with pytest.raises(
        ApiVersionError, match=r"is no version of the contract, which is a text such as '1\.0'"
    ) as caught:
        check_api(declared, "fam-a")
    assert repr(declared) in str(caught.value)


@pytest.mark.parametrize("line", ["", "THUNDERSTONE_API = '1.0'", "THUNDERSTONE_API: str = '.'.join(['1', '0'])"])
def test_a_plugin_that_fits_is_loaded(install, line):
    install("fam-a", "a", DECLARES + line)
    assert only_record().state == "ok"
    assert list(thunderstone.methods()) == ["alpha"]


def test_a_newer_plugin_is_refused_and_the_names_it_declares_are_known_as_its(install):
    install("fam-a", "aa", DECLARES + "THUNDERSTONE_API = '1.7'\n")
    record = only_record()
    assert (record.state, record.reason, record.hint.partition(",")[0]) == (
        "failed",
        NEWER,
        "pip install --upgrade thunderstone",
    )
    assert thunderstone.methods() == {}
    for name in ("alpha", "aa"):
        with pytest.raises(
            BrokenPluginError, match=r"plug-in 'aa' \(fam-a 1.0\) could not be loaded: it needs a newer"
        ):
            thunderstone.create(name)


@pytest.mark.parametrize(
    "failing",
    [
        "from thunderstone import a_name_of_the_future",
        "import thunderstone; thunderstone.a_name_of_the_future",
        "import thunderstone.module_of_the_future",
    ],
)
def test_a_newer_plugin_whose_import_fails_is_refused_for_what_it_needs(install, failing):
    install("fam-a", "aa", f"THUNDERSTONE_API = '1.7'\n{failing}\n")
    record = only_record()
    assert record.reason == NEWER
    assert "a_name_of_the_future" in record.traceback or "module_of_the_future" in record.traceback
    with pytest.raises(UnknownNameError, match=r"plug-in 'aa' \(fam-a 1.0\) could not be loaded: it needs a newer"):
        thunderstone.create("alpha")


def test_a_source_that_cannot_be_read_says_nothing_of_its_contract(install):
    install("fam-a", "aa", "THUNDERSTONE_API = '1.7'\ndef broken(:")
    assert only_record().reason.startswith("SyntaxError")


def test_the_constant_is_read_without_importing_the_package_above_it(install, tmp_path):
    install("fam-a", "aa", "", value="fam_pkg.inner.plugin")
    folder = tmp_path / "site" / "fam_pkg" / "inner"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("from thunderstone import a_name_of_the_future\n")
    (folder / "__init__.py").write_text("1 / 0\n")
    (folder / "plugin.py").write_text("THUNDERSTONE_API: str = '1.7'\n")
    assert only_record().reason == NEWER


@pytest.mark.parametrize(
    "value", ["fam_gone.plugin", "fam_a.plugin", "fam_a:gone"], ids=["no package", "no module", "no attribute"]
)
def test_where_there_is_no_source_the_failed_import_is_the_reason(install, value):
    install("fam-a", "aa", "", value=value)
    assert "Error" in only_record().reason


def test_a_value_that_is_no_version_is_the_plugins_failure(install):
    install("fam-a", "aa", DECLARES + "THUNDERSTONE_API = 1.0\n")
    assert only_record().reason.startswith("THUNDERSTONE_API = 1.0 is no version of the contract")


def test_every_plugin_of_this_project_says_which_contract_it_was_written_for():
    for record in registry().plugins:
        if record.distribution.startswith("thunderstone"):
            module = __import__(record.value, fromlist=["*"])
            assert module.THUNDERSTONE_API == thunderstone.API_VERSION, record.label
