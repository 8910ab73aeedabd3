"""Names: who has them, who claims them, and what is said when nobody does."""

import pytest

import thunderstone
from thunderstone.discovery import refresh, registry
from thunderstone.errors import BrokenPluginError, NameConflictError, UnknownNameError


def plugin(*methods, strategies=(), before=""):
    declared = [f"MethodSpec({name!r}, {target!r}, 'family', 'Summary.')" for name, target in methods]
    offered = [f"StrategySpec({kind!r}, {name!r}, {target!r}, 'Summary.')" for kind, name, target in strategies]
    return (
        f"{before}\n"
        "from thunderstone import MethodSpec, StrategySpec, hookimpl\n"
        "@hookimpl\n"
        "def thunderstone_methods():\n"
        f"    return [{', '.join(declared)}]\n"
        "@hookimpl\n"
        "def thunderstone_strategies():\n"
        f"    return [{', '.join(offered)}]\n"
    )


def test_nothing_installed_is_nothing_found(install):
    assert registry().plugins == ()
    assert thunderstone.methods() == {}
    assert thunderstone.strategies() == {}
    with pytest.raises(UnknownNameError, match=r"There is no method named 'sam'. Nothing is registered"):
        registry().method("sam")


def test_methods_and_strategies_are_found_by_name(install):
    install("fam-b", "b", plugin(("beta", "b:B")))
    strategies = [("fam.score", "two", "a:two"), ("fam.score", "one", "a:one"), ("fam.axis", "x", "a:x")]
    install("fam-a", "a", plugin(("alpha", "a:A"), ("gamma", "a:G"), strategies=strategies), version="2.5")
    assert [record.name for record in registry().plugins] == ["a", "b"], "sorted by name, so the same everywhere"
    assert list(thunderstone.methods()) == ["alpha", "beta", "gamma"]
    assert thunderstone.methods()["beta"].target == "b:B"
    assert {kind: list(named) for kind, named in thunderstone.strategies().items()} == {
        "fam.axis": ["x"],
        "fam.score": ["one", "two"],
    }
    assert list(thunderstone.strategies("fam.score")) == ["one", "two"]
    assert thunderstone.strategies("fam.nothing") == {}
    owner = registry().owner(thunderstone.methods()["gamma"])
    assert (owner.name, owner.distribution, owner.version) == ("a", "fam-a", "2.5")
    assert owner.label == "plug-in 'a' (fam-a 2.5)"


def test_what_the_functions_return_belongs_to_the_caller(install):
    install("fam-a", "a", plugin(("alpha", "a:A"), strategies=[("fam.score", "one", "a:one")]))
    thunderstone.methods().clear()
    thunderstone.strategies()["fam.score"].clear()
    thunderstone.strategies("fam.score").clear()
    assert list(thunderstone.methods()) == ["alpha"]
    assert list(thunderstone.strategies("fam.score")) == ["one"]


def test_a_plugin_is_loaded_once_a_process(install, tmp_path):
    log = tmp_path / "log"
    install("fam-a", "a", plugin(before=f"with open({str(log)!r}, 'a') as log: log.write('x')"))
    first = registry()
    thunderstone.methods()
    assert registry() is first
    assert log.read_text() == "x"
    refresh()
    assert registry() is not first


def test_a_typo_gets_the_nearest_name(install):
    install("fam-a", "a", plugin(("alpha", "a:A"), strategies=[("fam.score", "magnitude", "a:m")]))
    with pytest.raises(UnknownNameError, match=r"no method named 'alhpa'. Did you mean 'alpha'\?"):
        registry().method("alhpa")
    with pytest.raises(UnknownNameError, match=r"no fam.score strategy named 'magnitud'. Did you mean 'magnitude'\?"):
        thunderstone.strategy("fam.score", "magnitud")
    with pytest.raises(UnknownNameError, match=r"no kind of strategy named 'fam.scores'. Did you mean 'fam.score'\?"):
        thunderstone.strategy("fam.scores", "magnitude")


def test_a_strategy_is_imported_when_it_is_asked_for(install):
    source = plugin(strategies=[("fam.score", "one", "fam_a:one"), ("fam.score", "gone", "fam_a:gone")])
    install("fam-a", "a", source + "def one():\n    return 1\n")
    assert thunderstone.strategy("fam.score", "one")() == 1
    with pytest.raises(BrokenPluginError, match=r"fam.score strategy 'gone' points to 'fam_a:gone', which cannot be"):
        thunderstone.strategy("fam.score", "gone")


class TestConflicts:
    @pytest.fixture(autouse=True)
    def _two_claims(self, install):
        install("fam-a", "a", plugin(("alpha", "a:A"), ("sam", "a:SAM"), strategies=[("k.r", "one", "a:one")]))
        install("fam-b", "b", plugin(("sam", "b:SAM"), strategies=[("k.r", "one", "b:one"), ("k.s", "one", "b:s")]))

    def test_neither_claimant_has_the_name_and_both_have_their_others(self):
        assert list(thunderstone.methods()) == ["alpha"]
        assert thunderstone.strategies("k.r") == {}
        assert list(thunderstone.strategies("k.s")) == ["one"]

    def test_asking_for_the_name_names_both_distributions_and_targets(self):
        with pytest.raises(NameConflictError) as caught:
            thunderstone.create("sam")
        for part in ("method name 'sam'", "fam-a 1.0", "'a:SAM'", "fam-b 1.0", "'b:SAM'", "THUNDERSTONE_DISABLE=a"):
            assert part in str(caught.value)
        with pytest.raises(NameConflictError, match=r"k.r strategy name 'one'.*'a:one'.*'b:one'"):
            thunderstone.strategy("k.r", "one")

    def test_disabling_one_gives_the_name_to_the_other(self, monkeypatch):
        monkeypatch.setenv("THUNDERSTONE_DISABLE", "a")
        refresh()
        assert thunderstone.methods()["sam"].target == "b:SAM"
        assert registry().conflicts == []

    def test_strict_mode_makes_it_fatal(self, monkeypatch):
        monkeypatch.setenv("THUNDERSTONE_STRICT", "1")
        with pytest.raises(NameConflictError, match=r"THUNDERSTONE_STRICT is set"):
            thunderstone.methods()


class TestFailures:
    @pytest.fixture(autouse=True)
    def _one_failure(self, install):
        install("fam-a", "a", plugin(("alpha", "a:A")))
        install("fam-b", "bees", plugin(before="raise ImportError('no bees')"))
        source = plugin(("gamma", "c:G")).replace(
            "def thunderstone_strategies():\n", "def thunderstone_strategies():\n    1/0\n"
        )
        install("fam-c", "c", source)

    def test_they_leave_the_others_alone(self):
        assert list(thunderstone.methods()) == ["alpha"]
        assert [record.state for record in registry().plugins] == ["ok", "failed", "failed"]

    def test_an_unknown_name_comes_with_the_plugins_that_may_have_had_it(self):
        with pytest.raises(UnknownNameError) as caught:
            thunderstone.create("honey")
        assert "plug-in 'bees' (fam-b 1.0) could not be loaded: ImportError: no bees" in str(caught.value)

    def test_asking_for_the_plugins_own_name_says_why_it_is_not_there(self):
        with pytest.raises(BrokenPluginError, match=r"'bees' \(fam-b 1.0\) could not be loaded: ImportError: no bees"):
            thunderstone.create("bees")

    def test_a_name_it_declared_before_it_failed_says_so_too(self):
        with pytest.raises(BrokenPluginError, match=r"'c' \(fam-c 1.0\) could not be loaded: ZeroDivisionError"):
            thunderstone.create("gamma")

    def test_strict_mode_makes_them_fatal(self, monkeypatch):
        monkeypatch.setenv("THUNDERSTONE_STRICT", "1")
        for ask in (thunderstone.methods, thunderstone.strategies, registry):
            with pytest.raises(BrokenPluginError, match=r"fam-b 1.0.*no bees.*THUNDERSTONE_STRICT is set"):
                ask()

    @pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
    def test_strict_mode_can_be_switched_off(self, monkeypatch, value):
        monkeypatch.setenv("THUNDERSTONE_STRICT", value)
        assert list(thunderstone.methods()) == ["alpha"]


class TestDisabling:
    @pytest.fixture
    def log(self, install, tmp_path):
        path = tmp_path / "log"
        install(
            "Fam_A.one", "a", plugin(("alpha", "a:A"), before=f"with open({str(path)!r}, 'w'): pass"), value="Fam_A_one"
        )
        (tmp_path / "site" / "Fam_A.one.py").rename(tmp_path / "site" / "Fam_A_one.py")
        install("fam-b", "b", plugin(("beta", "b:B")))
        return path

    @pytest.mark.parametrize("value", ["a", "fam-a-one", "FAM.A_ONE", " nobody, a ,", "a,fam-a-one"])
    def test_a_disabled_plugin_is_not_even_imported(self, log, monkeypatch, value):
        monkeypatch.setenv("THUNDERSTONE_DISABLE", value)
        assert list(thunderstone.methods()) == ["beta"]
        assert not log.exists()
        assert registry().disabled[0].reason.startswith("THUNDERSTONE_DISABLE names")

    def test_without_it_the_plugin_is_imported(self, log):
        assert list(thunderstone.methods()) == ["alpha", "beta"]
        assert log.exists()

    def test_asking_for_what_is_disabled_says_so(self, log, monkeypatch):
        monkeypatch.setenv("THUNDERSTONE_DISABLE", "a")
        with pytest.raises(
            UnknownNameError, match=r"'a' \(Fam_A.one 1.0\) is disabled: THUNDERSTONE_DISABLE names 'a'"
        ):
            thunderstone.create("alpha")
        with pytest.raises(BrokenPluginError, match=r"is disabled"):
            thunderstone.create("a")

    def test_it_is_no_failure_in_strict_mode(self, log, monkeypatch):
        monkeypatch.setenv("THUNDERSTONE_DISABLE", "a")
        monkeypatch.setenv("THUNDERSTONE_STRICT", "1")
        assert list(thunderstone.methods()) == ["beta"]

    def test_a_name_that_disables_nothing_is_found_out(self, log, monkeypatch):
        monkeypatch.setenv("THUNDERSTONE_DISABLE", "fam-bb,zzz,b")
        assert registry().unknown_disabled_names() == {"fam-bb": "fam-b", "zzz": None}


def test_the_owner_of_a_foreign_spec_is_nobody(install):
    with pytest.raises(LookupError):
        registry().owner(thunderstone.MethodSpec("m", "a:B", "f", "s"))
