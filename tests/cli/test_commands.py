"""`list`, `info`, `doctor`, `demo`, and how wrong requests are answered."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import entry_points

import pytest

import thunderstone
from thunderstone.cli import doctor
from thunderstone.cli.docstrings import parse_docstring
from thunderstone.cli.listing import citation
from thunderstone.cli.main import COMMANDS, main
from thunderstone.discovery import PluginRecord, Registry, refresh, registry
from thunderstone.specs import Reference


@pytest.fixture
def says(capsys):
    """Runs a command in this process: (exit code, output, errors)."""

    def run(*arguments):
        code = main(arguments)
        output, errors = capsys.readouterr()
        return code, output, errors

    return run


def everything_but(*names):
    """A value of THUNDERSTONE_DISABLE that leaves only these plug-ins of whatever this machine has."""
    return ",".join({point.name for point in entry_points(group="thunderstone")} - set(names))


# -- the command itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typo", "near"), [("lst", "list"), ("doktor", "doctor"), ("inof", "info"), ("rnu", "run")])
def test_a_typo_gets_the_nearest_command(says, typo, near):
    assert says(typo) == (2, "", f"thunderstone: There is no command {typo!r}. Did you mean {near!r}?\n")


def test_a_command_like_nothing_gets_all_of_them(says):
    assert says("xyzzy")[2].endswith(f"Known names: {', '.join(COMMANDS)}.\n")


def test_help_names_every_command(says):
    code, output, _ = says("--help")
    assert code == 0
    assert [name for name in COMMANDS if not re.search(rf"^\s+{name}\s", output, re.MULTILINE)] == []
    assert "Exit codes: 0 done, 1 a run failed, 2 the request was wrong." in output


def test_the_version_is_the_packages(says):
    assert says("--version") == (0, f"thunderstone {thunderstone.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["list", "--jsn"], ["info"], ["--nothing"], ["demo", "--seeds", "0"]])
def test_wrong_options_are_wrong_requests(says, arguments):
    code, output, errors = says(*arguments)
    assert (code, output) == (2, "")
    assert "Error" in errors


def test_the_module_is_the_command_too(shell):
    ours = shell.python("-m", "thunderstone", "lst")
    assert (ours.returncode, ours.stdout) == (2, "")
    assert "Did you mean 'list'?" in ours.stderr


# -- list --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("marking")
def test_list_shows_methods_by_family_and_strategies_by_kind(says, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    code, output, _ = says("list")
    assert code == 0
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "marking mark Marks a fit. First et al. 1999 marking 1.0" in lines
    assert "stateful Marks a fit and remembers it. marking 1.0" in lines
    assert "marking.scale halve Halves. marking 1.0" in lines


@pytest.mark.usefixtures("marking")
def test_list_is_readable_in_eighty_columns(says, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, output, _ = says("list")
    assert "Marks a fit and remembers it." in output


@pytest.mark.usefixtures("marking")
def test_list_as_json_has_the_documented_keys(says):
    _, output, _ = says("list", "--json")
    document = json.loads(output)
    assert document["schema"] == 1
    assert document["thunderstone"] == thunderstone.__version__
    origin = {"plugin": "marking", "distribution": "marking", "version": "1.0"}
    paper = {
        "title": "On Marks",
        "authors": "Ada First and Ben Second",
        "year": 1999,
        "url": "https://example.org/marks",
    }
    by_name = {method["name"]: method for method in document["methods"]}
    assert by_name["mark"] == {
        "name": "mark",
        "family": "marking",
        "target": "marking:Mark",
        "summary": "Marks a fit.",
        "reference": paper,
        **origin,
    }
    assert by_name["stateful"]["reference"] is None
    (strategy,) = (each for each in document["strategies"] if each["kind"] == "marking.scale")
    assert strategy == {
        "name": "halve",
        "kind": "marking.scale",
        "target": "marking:halve",
        "summary": "Halves.",
        "reference": None,
        **origin,
    }
    (plugin,) = (each for each in document["plugins"] if each["name"] == "marking")
    assert plugin == {
        "name": "marking",
        "value": "marking_plugin",
        "distribution": "marking",
        "version": "1.0",
        "state": "ok",
        "reason": None,
        "hint": None,
    }
    assert document["conflicts"] == []


@pytest.fixture
def trouble(marking, marked_shell, break_a_plugin, monkeypatch):
    """A broken plug-in, a disabled one, a name in conflict, and a variable that disables nothing."""
    break_a_plugin()
    claim = (
        "from thunderstone import MethodSpec, hookimpl\n"
        "@hookimpl\n"
        "def thunderstone_methods():\n"
        "    return [MethodSpec('stateful', 'rival:Stateful', 'rivals', 'Claims a name.')]\n"
    )
    marked_shell.install("rival", {"rival": claim}, "[thunderstone]\nrival = rival\n", version="2.0")
    marked_shell.install("sleeper", {"sleeper": "1 / 0"}, "[thunderstone]\nsleeper = sleeper\n")
    monkeypatch.setenv("THUNDERSTONE_DISABLE", "sleeper,slepper")
    refresh()


@pytest.mark.usefixtures("trouble")
def test_list_shows_what_is_not_there_and_why(says, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    code, output, _ = says("list")
    assert code == 0
    hint = "HINT: fix or uninstall shattered, or set THUNDERSTONE_DISABLE=shattered"
    assert f"failed  plug-in 'shattered' (shattered 0.3): ImportError: libshatter.so is [missing]. {hint}\n" in output
    assert "disabled  plug-in 'sleeper' (sleeper 1.0): THUNDERSTONE_DISABLE names 'sleeper'\n" in output
    assert re.search(r"conflict  The method name 'stateful' is claimed by marking 1.0 .* and rival 2.0", output)
    assert "unknown  THUNDERSTONE_DISABLE names 'slepper', which is no plug-in. Did you mean 'sleeper'?\n" in output
    assert "marking mark" in " ".join(output.split())
    assert not re.search(r"^\s+stateful\s", output, re.MULTILINE), "nobody has a name that two claim"


@pytest.mark.usefixtures("trouble")
def test_list_as_json_shows_it_too(says):
    document = json.loads(says("list", "--json")[1])
    states = {plugin["name"]: (plugin["state"], plugin["reason"]) for plugin in document["plugins"]}
    assert states["shattered"] == ("failed", "ImportError: libshatter.so is [missing]")
    assert states["sleeper"] == ("disabled", "THUNDERSTONE_DISABLE names 'sleeper'")
    (conflict,) = document["conflicts"]
    assert (conflict["what"], conflict["name"]) == ("method", "stateful")
    assert conflict["claims"] == [
        {"plugin": "marking", "distribution": "marking", "version": "1.0", "target": "marking:Stateful"},
        {"plugin": "rival", "distribution": "rival", "version": "2.0", "target": "rival:Stateful"},
    ]


@pytest.mark.usefixtures("trouble")
def test_list_fails_in_strict_mode(says, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_STRICT", "1")
    monkeypatch.setenv("THUNDERSTONE_DISABLE", everything_but("shattered", "marking", "rival"))
    refresh()
    code, output, errors = says("list")
    assert (code, output) == (2, "")
    assert "(shattered 0.3) could not be loaded: ImportError" in errors
    assert "THUNDERSTONE_STRICT is set" in errors


def test_list_says_how_to_get_a_method_when_there_is_none(shell):
    ours = shell.thunderstone("list", THUNDERSTONE_DISABLE=everything_but())
    assert ours.returncode == 0
    assert ours.stdout.startswith("No method is installed. A family: pip install thunderstone-sharpness\n")


# -- info --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("marking")
def test_info_tells_everything_about_a_method(says, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, output, _ = says("info", "mark")
    assert code == 0
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for expected in (
        "mark (marking): Marks a fit.",
        "Writes a line for every fit.",
        "path Path PosixPath('marks') Where to write.",
        "amount float 1.0 How much of it.",
        "shape 'round' | 'square' 'round' In which form.",
        "steps int | None None",
        "betas tuple[float, float] (0.9, 0.999)",
        "layers list[str] []",
        "Ada First and Ben Second (1999). On Marks.",
        "https://example.org/marks",
        "Cost",
        "One line.",
        "a second method that owns the marker",
        "strategy FSDPStrategy: it shards what is marked",
        "from marking import Mark",
        "Trainer(callbacks=[Mark(path=PosixPath('marks'))])",
        "thunderstone run --with mark:path=marks train.py",
        "- class_path: marking.Mark",
        'path: "marks"',
        "marking 1.0 (marking:Mark)",
    ):
        assert expected in lines


@pytest.mark.usefixtures("marking")
@pytest.mark.parametrize("name", ["marking.scale:halve", "marking.scale/halve", "halve"])
def test_info_tells_about_a_strategy(says, name):
    code, output, _ = says("info", name)
    assert code == 0
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for expected in (
        "marking.scale:halve: Halves.",
        "Halves a value.",
        "value float required What to halve.",
        "times int 1 How often.",
        "from marking import halve",
        'or: thunderstone.strategy("marking.scale", "halve")',
    ):
        assert expected in lines


@pytest.mark.usefixtures("marking")
def test_info_lists_the_strategies_of_a_kind(says):
    code, output, _ = says("info", "marking.scale")
    assert code == 0
    assert "marking.scale:halve: Halves." in output.splitlines()


@pytest.mark.usefixtures("trouble")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("marc", "There is no method named 'marc'. Did you mean 'mark'?"),
        ("marking.scale:halv", "There is no marking.scale strategy named 'halv'. Did you mean 'halve'?"),
        ("marking.scales:halve", "There is no kind of strategy named 'marking.scales'. Did you mean 'marking.scale'?"),
        ("shattered", "plug-in 'shattered' (shattered 0.3) could not be loaded: ImportError: libshatter.so"),
        ("stateful", "The method name 'stateful' is claimed by marking 1.0"),
    ],
)
def test_info_on_what_is_not_there_is_a_wrong_request(says, name, message):
    code, output, errors = says("info", name)
    assert (code, output) == (2, "")
    assert errors.startswith(f"thunderstone: {message}")


# -- doctor ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("marking")
def test_doctor_says_when_everything_works(says, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_DISABLE", everything_but("marking"))
    code, output, _ = says("doctor")
    assert (code, output.splitlines()[-1]) == (0, "Everything works."), output
    assert "  ok     3 of 3: can be imported\n" in output


@pytest.mark.usefixtures("trouble")
def test_doctor_finds_what_is_broken(says, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_IMPORT_TIMEOUT", "soon")
    code, output, _ = says("doctor")
    assert code == 1
    for line in (
        r"  note   THUNDERSTONE_IMPORT_TIMEOUT: soon",
        r"  note   THUNDERSTONE_IMPORT_TIMEOUT: it is no number of seconds, so 10 is used",
        r"  ok     python: 3\.\d+",
        r"  ok     torch: \d",
        r"  ok     lightning: \d",
        r"  ok     wandb: \d",
        r"  ok     rival: 2\.0",
        r"  note   THUNDERSTONE_DISABLE: sleeper,slepper",
        r"  ok     THUNDERSTONE_STRICT: not set",
        r"  note   THUNDERSTONE_DISABLE: 'slepper' is no plug-in\. Did you mean 'sleeper'\?",
        r"  broken plug-in 'shattered' \(shattered 0\.3\): ImportError: libshatter\.so is \[missing\]",
        r"  note   plug-in 'sleeper' \(sleeper 1\.0\): disabled: THUNDERSTONE_DISABLE names 'sleeper'",
        r"  ok     plug-in 'marking' \(marking 1\.0\): 2 methods, 1 strategies",
        r"  broken name 'stateful': The method name 'stateful' is claimed by",
        r"  ok     thunderstone\.cli\.factory:callbacks: attaches nothing",
    ):
        assert re.search(f"^{line}", output, re.MULTILINE), line
    assert "Traceback" not in output
    assert re.search(r"^\d+ things? broken\. `thunderstone doctor --verbose` shows tracebacks\.$", output, re.MULTILINE)


@pytest.mark.usefixtures("trouble")
def test_doctor_shows_tracebacks_and_does_not_mind_strict_mode(says, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_STRICT", "1")
    code, output, _ = says("doctor", "--verbose")
    assert code == 1
    assert "Traceback (most recent call last)" in output
    assert "raise ImportError('libshatter.so is [missing]')" in output
    assert "2 methods, 1 strategies" in output


@pytest.mark.usefixtures("marking")
def test_doctor_finds_a_requirement_that_is_not_met(says, marked_shell):
    information = marked_shell.site / "marking-1.0.dist-info" / "METADATA"
    needs = "Requires-Dist: torch>=99\nRequires-Dist: not-there-at-all\nRequires-Dist: absent; extra == 'more'\n"
    needs += "Requires-Dist: torch (=>2\nRequires-Dist: thunderstone-none\n"
    information.write_text(information.read_text() + needs)
    code, output, _ = says("doctor")
    assert code == 1
    found = re.search(r"^  broken marking: 1\.0; (.*)$", output, re.MULTILINE)
    assert found
    assert re.search(
        r"needs torch>=99, and \S+ is installed; needs not-there-at-all, which is not installed; "
        r"has a requirement that cannot be read, 'torch \(=>2': .*; needs thunderstone-none, which is not installed$",
        found[1],
    )


@pytest.mark.usefixtures("marking")
def test_doctor_shows_a_package_that_has_no_version(marked_shell):
    (marked_shell.site / "marking-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: marking\n")
    found = {finding.subject: finding for finding in doctor._versions(registry())}
    assert (found["marking"].state, found["marking"].detail) == ("ok", "no version")


@pytest.mark.usefixtures("marking")
def test_doctor_notes_another_version_of_the_host_where_the_contract_fits(marked_shell):
    information = marked_shell.site / "marking-1.0.dist-info" / "METADATA"
    information.write_text(information.read_text() + "Requires-Dist: thunderstone==0.0.7\n")
    found = {finding.subject: finding for finding in doctor._versions(registry())}
    assert (found["marking"].state, found["marking"].detail) == (
        "note",
        f"1.0; needs thunderstone==0.0.7, and {thunderstone.__version__} is installed; the contract it was written for "
        "fits all the same",
    )


def test_doctor_notes_what_a_plugin_uses_that_is_going_to_leave_the_contract():
    record = PluginRecord("fam", "fam.plugin", "fam-package", "1.0", deprecated=("the hook 'x' leaves it",))
    found = [(each.state, each.detail) for each in doctor._plugins(Registry([record]))]
    assert found == [("ok", "0 methods, 0 strategies"), ("note", "the hook 'x' leaves it")]


@pytest.mark.usefixtures("marking")
def test_doctor_finds_a_declaration_that_points_nowhere(says, marked_shell):
    plugin = marked_shell.site / "marking_plugin.py"
    plugin.write_text(plugin.read_text().replace("marking:halve", "marking:quarter"))
    code, output, _ = says("doctor")
    assert code == 1
    assert "broken strategy marking.scale:halve: marking.scale strategy 'halve' points to 'marking:quarter'" in output


@pytest.mark.usefixtures("marking")
def test_doctor_tries_the_methods_the_environment_asks_for(says, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_WITH", '[{"name": "mark", "arguments": {"amount": 3}}]')
    _, output, _ = says("doctor")
    assert re.search(r"ok     thunderstone.cli.factory:callbacks: attaches Mark\(.*amount=3.0", output)
    monkeypatch.setenv("THUNDERSTONE_WITH", '[{"name": "marc"}]')
    code, output, _ = says("doctor")
    assert code == 1
    assert "broken thunderstone.cli.factory:callbacks: UnknownNameError: There is no method named 'marc'" in output


# -- demo --------------------------------------------------------------------------------------------------------------


def test_demo_passes_its_options_on(says, monkeypatch, tmp_path):
    asked = {}
    demo = type("module", (), {"run_demo": staticmethod(lambda **options: asked.update(options))})
    monkeypatch.setitem(sys.modules, "thunderstone.demo", demo)
    monkeypatch.setitem(sys.modules, "thunderstone.demo.main", demo)
    assert says("demo", "--output", str(tmp_path), "--seeds", "1", "--epochs", "2")[0] == 0
    assert asked == {"output": tmp_path, "seeds": 1, "epochs": 2}


def test_demo_without_what_it_needs_says_what_to_install(says, monkeypatch):
    monkeypatch.setitem(sys.modules, "thunderstone.demo.main", None)
    code, _, errors = says("demo")
    assert code == 2
    assert "HINT: pip install 'thunderstone[demo]' thunderstone-sharpness" in errors


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authors", "cited"),
    [
        ("Foret, Kleiner, Mobahi", "Foret et al. 2021"),
        ("Ada First and Ben Second", "First et al. 2021"),
        ("Pierre Foret et al.", "Foret et al. 2021"),
        ("Pierre Foret", "Foret 2021"),
    ],
)
def test_a_paper_is_cited_by_its_first_author(authors, cited):
    assert citation(Reference("Title", authors, 2021, "")) == cited


def test_a_docstring_comes_apart_at_its_sections():
    docs = parse_docstring(
        """What it does.

        More: of it.

        Args:
            rho: Radius: 0 or
                more.
            *rest (int): Others.

        Cost:
            Two passes.

            And a third.
        After all.
        """
    )
    assert docs.text == "What it does.\n\nMore: of it.\n\nAfter all."
    assert docs.items("Args") == {"rho": "Radius: 0 or more.", "rest": "Others."}
    assert docs.sections["Cost"] == "Two passes.\n\nAnd a third."
    assert docs.items("Raises") == {}
    assert parse_docstring(None).text == ""
