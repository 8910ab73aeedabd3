"""Which module may load which: the direction of dependencies, and what must stay quick to import."""

from __future__ import annotations

import ast
import re

import pytest

HEAVY = {"torch", "lightning", "pytorch_lightning", "matplotlib", "wandb", "numpy", "sklearn"}
# The host's modules that families, and so anybody's plug-in, may import besides `thunderstone` itself.
PUBLIC_MODULES = {
    "thunderstone",
    "thunderstone.arguments",
    "thunderstone.errors",
    "thunderstone.generation",
    "thunderstone.isolation",
    "thunderstone.specs",
    "thunderstone.tensor_lists",
}
# What a family tells the conformance kit is imported by checks alone, so it may stand on the kit.
CONFORMANCE = "conformance.py"


@pytest.mark.parametrize(
    "statement",
    [
        "import thunderstone",
        "import thunderstone; thunderstone.methods()",
        "import thunderstone; thunderstone.strategies()",
        "import thunderstone.discovery",
        "import thunderstone.specs",
        "import thunderstone.errors",
        "import thunderstone.markers",
        "import thunderstone.cli.main",
        "import thunderstone.cli.factory",
    ],
)
def test_looking_around_loads_nothing_heavy(statement, run_python):
    loaded = run_python(f"{statement}\nimport sys\nprint(*sorted({HEAVY!r} & sys.modules.keys()))")
    assert loaded.split() == []


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"]])
def test_listing_methods_loads_nothing_heavy(arguments, run_python):
    printed = run_python(
        "import sys\n"
        f"sys.argv = ['thunderstone', *{arguments!r}]\n"
        "from thunderstone.cli.main import main\n"
        "try:\n"
        "    code = main()\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        f"print('loaded:', code or 0, *sorted({HEAVY!r} & sys.modules.keys()))"
    )
    assert printed.splitlines()[-1] == "loaded: 0"


def test_the_check_for_heavy_modules_sees_one(run_python):
    assert run_python(f"import numpy, sys\nprint(*sorted({HEAVY!r} & sys.modules.keys()))").split() == ["numpy"]


def test_every_family_is_under_the_import_contracts(packages):
    families = {package.module for package in packages if not package.is_host}
    settings = packages[0].settings["tool"]["importlinter"]
    assert set(settings["root_packages"]) == families | {"thunderstone"}, "HINT: [tool.importlinter] in pyproject.toml"
    for contract in settings["contracts"]:
        if contract["type"] == "independence":
            assert set(contract["modules"]) == families
        elif contract["source_modules"] == ["thunderstone"]:
            assert set(contract["forbidden_modules"]) == families


def _imported_from_host(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "thunderstone":
                yield name, node.lineno


def _of_the_kit(module):
    return module == "thunderstone.testing" or module.startswith("thunderstone.testing.")


def test_families_use_only_what_third_parties_may_use(family, root):
    private = [
        f"{path.relative_to(root)}:{line}: {name}"
        for path in family.modules()
        for name, line in _imported_from_host(path)
        if name not in PUBLIC_MODULES and not (path.name == CONFORMANCE and _of_the_kit(name))
    ]
    assert not private, "\n".join(private)


def test_the_contract_names_the_modules_that_are_public(root):
    rows = re.findall(
        r"^\| `(thunderstone[\w.]*)` \|", (root / "docs" / "contract.md").read_text("utf-8"), re.MULTILINE
    )
    assert set(rows) == PUBLIC_MODULES
