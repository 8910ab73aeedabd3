"""`check`: the kit on installed packages, kept, excepted and broken, and how wrong requests are answered."""

from __future__ import annotations

import json
import sys

import pytest

from thunderstone.cli.main import main
from thunderstone.discovery import refresh
from thunderstone.specs import MethodSpec
from thunderstone.testing import CheckRecord
from thunderstone.testing.package_check import MethodReport, PackageReport

METHODS = '''
"""Methods that a package may hold."""
from thunderstone import ArgumentError, Method
from thunderstone.arguments import finite


class Quiet(Method):
    """Does nothing.

    Args:
        gain: Of nothing.
    """

    name = "quiet"

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = finite("Quiet", "gain", gain, "1.0 is as good as any")


class Careless(Quiet):
    """Does nothing, with any gain.

    Args:
        gain: Of nothing.
    """

    name = "careless"

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain


class Carefree(Careless):
    """Does nothing, with any gain.

    Args:
        gain: Of nothing.
    """

    name = "carefree"


def halve(value: float) -> float:
    """Halves."""
    return value / 2


HALF = 0.5
'''
SUBJECTS = """
from sounds import Careless
from thunderstone.testing import Subject

print("a subject that talks")
CARELESS = Subject("careless", Careless, expected_failures={"refuses_bad_values": "any [gain] will do"})
"""
NEEDY = "import jsonargparse\n"
CHECKS = ("--checks", "describes_itself", "--checks", "refuses_bad_values", "--checks", "matches_reference")


def plugin(methods="", strategies=""):
    return f"""
from thunderstone import MethodSpec, StrategySpec, hookimpl


@hookimpl
def thunderstone_methods():
    return [{methods}]


@hookimpl
def thunderstone_strategies():
    return [{strategies}]
"""


def declared(name, target, conformance=None):
    return f"MethodSpec({name!r}, {target!r}, 'sounds', 'Does nothing.', conformance={conformance!r}),"


def strategy(name, target):
    return f"StrategySpec('sounds.scale', {name!r}, {target!r}, 'Halves.'),"


QUIET = declared("quiet", "sounds:Quiet")
EXCEPTED = declared("careless", "sounds:Careless", "sounds_conformance:CARELESS")
BROKEN = declared("careless", "sounds:Careless")


@pytest.fixture
def package(shell, monkeypatch):
    """Installs a package in this process."""
    names = ("sounds", "sounds_conformance", "sounds_needy", "sounds_plugin")

    def install(source, entry_points="[thunderstone]\nsounds = sounds_plugin\n"):
        modules = {"sounds": METHODS, "sounds_conformance": SUBJECTS, "sounds_needy": NEEDY, "sounds_plugin": source}
        shell.install("thunder-sounds", modules, entry_points, version="2.1")
        monkeypatch.syspath_prepend(str(shell.site))
        refresh()

    yield install
    for name in names:
        sys.modules.pop(name, None)
    refresh()


@pytest.fixture
def says(capsys, monkeypatch):
    """Runs `check` in this process: (exit code, output, errors)."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        code = main(["check", *map(str, arguments)])
        output, errors = capsys.readouterr()
        return code, output, errors

    return run


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thunder-sounds", "Thunder_Sounds", "sounds"])
def test_a_package_that_keeps_the_rules(package, says, name):
    package(plugin(QUIET, strategy("halve", "sounds:halve")))
    code, output, errors = says(name, *CHECKS)
    assert code == 0
    title, *table = output.splitlines()
    assert title == "thunder-sounds 2.1"
    assert [line.split() for line in table if line.startswith("  quiet")] == [["quiet", "–", "✓"]]
    assert "skipped  quiet, rule 3 (matches_reference): the subject brings no reference" in output
    assert "1 of 1 strategies can be imported and called" in output
    assert output.endswith("kept: 1/1 rules\n")
    assert errors.startswith("quiet: 3 checks in ")


def test_a_plugin_module_that_is_not_light_is_noted(package, says, shell, monkeypatch):
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    shell.install("pytorch-lightning", {"pytorch_lightning": ""}, "", version="2.1")  # the name is what counts
    package("import pytorch_lightning\n" + plugin(QUIET))
    code, _, errors = says("sounds", *CHECKS)
    assert code == 0
    assert "note  plug-in 'sounds' (thunder-sounds 2.1): sounds_plugin imports pytorch_lightning, which" in errors


def test_a_declared_exception_is_shown_with_its_reason(package, says):
    package(plugin(QUIET + EXCEPTED))
    code, output, _ = says("sounds", *CHECKS)
    assert code == 0
    assert "expected failure  careless, rule 10 (refuses_bad_values): any [gain] will do" in output
    assert output.endswith("kept: 0/1 rules\n")


def test_a_broken_rule_is_exit_code_1(package, says):
    package(plugin(QUIET + BROKEN))
    code, output, errors = says("sounds", *CHECKS)
    assert code == 1
    assert "failed  careless, rule 10 (refuses_bad_values): Careless(gain=nan) is accepted" in output
    assert output.endswith("broken: 0/1 rules\n")
    assert "careless: 3 checks in " in errors
    assert "1 failed" in errors


def test_single_methods_are_checked_without_the_strategies(package, says):
    package(plugin(QUIET + BROKEN, strategy("nothing", "sounds:nothing")))
    code, output, _ = says("sounds", "--method", "quiet", *CHECKS)
    assert code == 0
    assert "careless" not in output
    assert "strategies" not in output


def test_json_is_all_there_is_on_the_output(package, says):
    package(plugin(EXCEPTED + declared("carefree", "sounds:Carefree"), strategy("halve", "sounds:halve")))
    code, output, errors = says("sounds", "--json", *CHECKS)
    found = json.loads(output)
    assert (code, found["schema"], found["package"], found["version"]) == (1, 1, "thunder-sounds", "2.1")
    assert (found["kept"], found["summary"]) == (False, "0/1 rules")
    excepted, broken = found["methods"]
    assert (excepted["name"], excepted["target"], excepted["broken"]) == ("careless", "sounds:Careless", None)
    assert excepted["rules"] == {"3": "skipped", "10": "expected-failure"}
    assert broken["rules"] == {"3": "skipped", "10": "failed"}
    assert sorted(check["check"] for check in broken["checks"]) == sorted(CHECKS[1::2])
    assert all(check["seconds"] >= 0 for check in broken["checks"])
    target = {"kind": "sounds.scale", "name": "halve", "target": "sounds:halve", "broken": None}
    assert found["strategies"] == [target]
    assert "a subject that talks" in errors


def test_what_cannot_be_imported_breaks_only_itself(package, says):
    targets = [
        declared("nowhere", "sounds:Nowhere"),
        declared("lost", "sounds:Quiet", "sounds_lost:QUIET"),
        declared("needy", "sounds:Quiet", "sounds_needy:QUIET"),
        QUIET,
    ]
    package(plugin("".join(targets), strategy("nothing", "sounds:nothing") + strategy("half", "sounds:HALF")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "jsonargparse", None)
        code, output, errors = says("sounds", *CHECKS[:2])
    assert code == 1
    assert "cannot be checked  nowhere: method 'nowhere' points to 'sounds:Nowhere'" in output
    assert "cannot be checked  lost: the conformance subject of method 'lost' points to 'sounds_lost:QUIET'" in output
    needy = next(line for line in output.splitlines() if line.startswith("cannot be checked  needy"))
    assert needy.endswith("HINT: pip install 'thunderstone[testing]'")
    assert "failed  strategy sounds.scale:nothing: sounds.scale strategy 'nothing' points to" in output
    assert "failed  strategy sounds.scale:half: 'sounds:HALF' is 0.5, which cannot be called." in output
    assert output.endswith("broken: 1/1 rules, 3 not checked\n")
    assert "needy: 0 checks in 0 s, cannot be checked" in errors


# -- the badge ---------------------------------------------------------------------------------------------------------


def test_a_badge_is_written(package, says, tmp_path):
    package(plugin(strategies=strategy("halve", "sounds:halve") + strategy("quarter", "sounds:halve")))
    path = tmp_path / "badge.json"
    assert says("sounds", "--badge", path)[0] == 0
    assert json.loads(path.read_text()) == {
        "schemaVersion": 1,
        "label": "conformance",
        "message": "2/2 strategies",
        "color": "brightgreen",
    }


@pytest.mark.parametrize(
    ("statuses", "message", "colour"),
    [
        (["passed", "passed", "skipped"], "2/2 rules", "brightgreen"),
        (["passed", "expected-failure", "passed"], "2/3 rules", "yellow"),
        (["failed", "expected-failure", "passed"], "1/3 rules", "red"),
    ],
)
def test_a_badge_counts_the_rules_that_are_kept(statuses, message, colour):
    spec = MethodSpec("quiet", "sounds:Quiet", "sounds", "Does nothing.")
    records = [CheckRecord("quiet", "check", rule, status, "", 0.1) for rule, status in enumerate(statuses, 1)]
    # One check of a rule that passes does not outweigh another that fails.
    records += [CheckRecord("quiet", "other", rule, "passed", "", 0.1) for rule in (1, 2)]
    badge = PackageReport("sounds", "1.0", (MethodReport(spec, tuple(records)),), ()).as_badge()
    assert (badge["message"], badge["color"]) == (message, colour)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--badge", "b.json", "--method", "quiet"], "HINT: leave --method out"),
        (["--badge", "b.json", "--checks", "composes"], "HINT: leave --checks out"),
        (["--badge", "nowhere/b.json"], "there is no folder 'nowhere'"),
        (["--badge", "."], "that is a folder"),
    ],
)
def test_a_badge_that_could_not_be_written_is_refused_at_once(package, says, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    package(plugin(QUIET))
    code, output, errors = says("sounds", *arguments)
    assert (code, output) == (2, "")
    assert said in errors
    assert list(tmp_path.glob("*.json")) == []


# -- wrong requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["soundz"], "There is no installed plug-in package named 'soundz'. Did you mean 'sounds'?"),
        ([""], "There is no installed plug-in package named ''."),
        (["sounds", "--method", "quit"], "There is no method of sounds named 'quit'. Did you mean 'quiet'?"),
        (["sounds", "--checks", "compose"], "There is no check named 'compose'. Did you mean 'composes'?"),
    ],
)
def test_unknown_names_get_the_nearest(package, says, arguments, said):
    package(plugin(QUIET))
    code, output, errors = says(*arguments)
    assert (code, output) == (2, "")
    assert said in errors


@pytest.mark.parametrize(
    ("source", "entry_points", "said"),
    [
        (
            plugin(),
            None,
            "declares no method and no strategy. HINT: return them from thunderstone_methods() in sounds_",
        ),
        (
            plugin(QUIET),
            "",
            "thunder-sounds 2.1 is installed and offers no plug-in: it has no entry point in the group",
        ),
        (plugin(QUIET), "[thunderstone]\nsounds = nowhere.plugin\n", "the entry point sounds = 'nowhere.plugin': "),
        ("raise OSError('no libsound')", None, "OSError: no libsound"),
    ],
)
def test_packages_with_nothing_to_check(package, says, source, entry_points, said):
    package(source, **({} if entry_points is None else {"entry_points": entry_points}))
    code, output, errors = says("thunder-sounds")
    assert (code, output) == (2, "")
    assert said in errors


def test_a_plugin_that_is_switched_off_is_not_checked(package, says, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_DISABLE", "sounds")
    package(plugin(QUIET))
    code, _, errors = says("sounds")
    assert code == 2
    assert "is disabled: THUNDERSTONE_DISABLE names 'sounds'" in errors
