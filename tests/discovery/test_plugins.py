"""What a plug-in does wrong is its own failure, recorded with the reason."""

import pytest

from thunderstone.discovery import methods, registry

HEAD = "from thunderstone import MethodSpec, StrategySpec, hookimpl\n"
GOOD = HEAD + (
    "@hookimpl\n"
    "def thunderstone_methods():\n"
    "    return [MethodSpec('good', 'good_methods:Good', 'goodness', 'Does good.')]\n"
)


def record_of(install, source, **options):
    install("zz-broken", "zz", source, **options)
    install("good-methods", "good", GOOD)
    by_name = {record.name: record for record in registry().plugins}
    assert by_name["good"].state == "ok", "another plug-in's failure must not spread"
    assert list(methods()) == ["good"]
    return by_name["zz"]


def returning(value, hook="thunderstone_methods"):
    return HEAD + f"@hookimpl\ndef {hook}():\n    return {value}\n"


METHOD = "MethodSpec('m', 'a:B', 'f', 's')"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libgone.so is missing')", "ImportError: libgone.so is missing"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import pytest; pytest.skip('no device', allow_module_level=True)", "Skipped: no device"),
        (
            HEAD + "@hookimpl\ndef thunderstone_metods():\n    return []\n",
            "'thunderstone_metods' is not a hook of thunderstone. Did you mean 'thunderstone_methods'?",
        ),
        (
            HEAD + "@hookimpl(specname='thunderstone_strategy')\ndef anything():\n    return []\n",
            "'thunderstone_strategy' is not a hook of thunderstone. Did you mean 'thunderstone_strategies'?",
        ),
        (
            "def thunderstone_methods():\n    return []\n",
            "thunderstone_methods looks like a hook but is not marked as one",
        ),
        ("VERSION = 1", "it implements no hook"),
        (HEAD + "@hookimpl\ndef thunderstone_methods(config):\n    return []\n", "config"),
        (HEAD + "@hookimpl\ndef thunderstone_methods():\n    raise RuntimeError('no luck')\n", "RuntimeError: no luck"),
        (returning("None"), "thunderstone_methods returned None, not a list of MethodSpec"),
        (returning("{'m': 1}"), "thunderstone_methods returned dict, not a list of MethodSpec"),
        (returning("['sam']"), "thunderstone_methods returned a list with 'sam', which is not a MethodSpec"),
        (returning(f"[{METHOD}]", "thunderstone_strategies"), "which is not a StrategySpec"),
        (returning(f"[{METHOD}, {METHOD}]"), "thunderstone_methods declares 'm' more than once"),
        (
            returning("[StrategySpec('a.b', 'l2', 'a:B', 's')] * 2", "thunderstone_strategies"),
            "thunderstone_strategies declares 'a.b:l2' more than once",
        ),
        (returning("[MethodSpec('Not A Name', 'a:B', 'f', 's')]"), "MethodSpec: name='Not A Name' is not allowed"),
        (returning("[MethodSpec('m', 'a.B', 'f', 's')]"), "MethodSpec: target='a.B' is not allowed"),
        (returning("[MethodSpec('m', 'a:B', '', 's')]"), "MethodSpec: family='' is not allowed"),
        (returning("[MethodSpec('m', 'a:B', 'f', 'two\\nlines')]"), "it must be one line of text"),
        (returning("[MethodSpec('m', 'a:B', 'f', 's', 'arXiv')]"), "MethodSpec: reference='arXiv' is not allowed"),
        (returning("[MethodSpec('m', 'a:B')]"), "TypeError: MethodSpec.__init__() missing 2 required"),
    ],
)
def test_a_broken_plugin_is_recorded_with_the_reason(install, source, reason):
    record = record_of(install, source)
    assert record.state == "failed"
    assert reason in record.reason
    assert "\n" not in record.reason
    assert "Traceback" in record.traceback
    assert (record.distribution, record.version) == ("zz-broken", "1.0")


def test_a_broken_plugin_keeps_what_it_declared_before_it_failed(install):
    source = returning(f"[{METHOD}]") + "@hookimpl\ndef thunderstone_strategies():\n    return 1\n"
    record = record_of(install, source)
    assert [spec.name for spec in record.methods] == ["m"]
    assert record.strategies == ()


def test_an_entry_point_may_name_an_object_in_a_module(install):
    source = HEAD + (
        "class Plugin:\n"
        "    @hookimpl\n"
        "    def thunderstone_methods(self):\n"
        f"        return [{METHOD}]\n"
        "plugin = Plugin()\n"
    )
    install("as-object", "as_object", source, value="as_object:plugin")
    assert list(methods()) == ["m"]


def test_an_entry_point_that_names_nothing_is_a_failure(install):
    record = record_of(install, "", value="zz_broken:plugin")
    assert record.reason == "AttributeError: module 'zz_broken' has no attribute 'plugin'"


def test_hooks_pluggy_leaves_optional_are_no_failure(install):
    source = GOOD.replace("'good'", "'other'") + "@hookimpl(optionalhook=True)\ndef from_the_future():\n    return 1\n"
    install("optional", "optional", source)
    assert list(methods()) == ["other"]


def test_a_plugin_module_that_is_not_light_is_noticed(install, monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "pytorch_lightning", raising=False)
    install("pytorch-lightning", "stand_in", "")  # the name is what counts
    install("heavy-one", "heavy", "import pytorch_lightning\n" + GOOD)
    by_name = {record.name: record for record in registry().plugins}
    assert by_name["heavy"].state == "ok"
    assert by_name["heavy"].heavy == ("pytorch_lightning",)
    assert by_name["stand_in"].state == "failed"


def test_what_a_plugin_prints_is_not_in_the_way_of_the_output(install, capsys):
    install("talkative", "talkative", "print('hello')\n" + GOOD)
    assert list(methods()) == ["good"]
    assert capsys.readouterr() == ("", "hello\n")


def test_ctrl_c_while_plugins_load_is_not_swallowed(install):
    install("interrupted", "interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry()
