"""`thunderstone report`: from the command line to a page."""

from __future__ import annotations

from pathlib import Path

from thunderstone.errors import RequestError


def execute(folder: Path, output: Path | None) -> None:
    """Write the report of a folder and say where it is.

    Raises:
        RequestError: There is nothing to report, or the file cannot be written.
    """
    from thunderstone.report.page import page
    from thunderstone.report.reading import read

    report = read(folder)
    if output is None:
        output = (folder if folder.is_dir() else folder.parent) / "report.html"
    elif output.is_dir():
        output = output / "report.html"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"report: {str(output)!r} cannot be written ({error.strerror}). HINT: --output FILE takes another place"
        ) from error
    count = len(report.runs)
    print(f"{count} run{'s' if count != 1 else ''} in {output}")
