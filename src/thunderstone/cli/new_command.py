"""`thunderstone new`: a plug-in package to begin from."""

from __future__ import annotations

import shlex
from pathlib import Path

from thunderstone.errors import RequestError


def execute(name: str, output: Path | None) -> None:
    """Make a package and say what to do with it.

    Args:
        name: The method's name, with or without ``thunderstone-`` in front.
        output: The new package's folder; the distribution's name in the current folder by default.

    Raises:
        RequestError: The name will not do, or the folder exists or cannot be written; then nothing was.
    """
    from thunderstone.template.facts import facts_for
    from thunderstone.template.naming import names_for
    from thunderstone.template.rendering import rendered, write_package

    names = names_for(name)
    folder = Path(names.distribution) if output is None else output
    another = "HINT: --output FOLDER takes another place"
    if not folder.name:
        raise RequestError(f"new: {str(folder)!r} exists, and a package goes into a folder of its own. {another}")
    if not folder.absolute().parent.is_dir():
        parent = str(folder.parent)
        raise RequestError(f"new: there is no folder {parent!r} to put {folder.name!r} in. HINT: make it first")
    try:
        write_package(rendered(names, facts_for(names.distribution)), folder)
    except FileExistsError as error:
        raise RequestError(f"new: {str(folder)!r} exists, and nothing in it is changed. {another}") from error
    except OSError as error:
        raise RequestError(f"new: {str(folder)!r} cannot be written ({error.strerror}). {another}") from error
    print(
        f"{folder} is a package with one method, {names.method}. It works, and is tested: the method is Lookahead\n"
        f"(Zhang et al. 2019), to be replaced by yours in src/{names.module}/{names.method}.py.\n\n"
        f"  cd {shlex.quote(str(folder))}\n"
        "  python -m pip install --editable '.[test]'\n"
        "  python -m pytest\n"
        f"  thunderstone info {names.method}"
    )
