"""The page in a real browser: it opens without a complaint, its tables sort, its curves can be hidden."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from thunderstone.report.page import page
from thunderstone.report.reading import read

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
# Works the page as a reader would, and leaves what it sees where `--dump-dom` prints it.
READER = """
<script>
window.addEventListener("load", () => {
  const table = [...document.querySelectorAll("table.sortable")]
    .find(each => each.tHead.textContent.startsWith("runstatus"));
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[2].textContent).join(" ");
  const button = table.tHead.rows[0].cells[2].querySelector("button");
  const seen = [column()];
  button.click(); seen.push(column());
  button.click(); seen.push(column());
  const box = document.querySelector("input[data-runs]");
  box.click();
  seen.push([...document.querySelectorAll(".series")].map(each => getComputedStyle(each).display).join(" "));
  seen.push(document.documentElement.scrollWidth <= window.innerWidth ? "fits" : "too wide");
  seen.push(document.querySelector("polyline").getBBox().width > 0 ? "drawn" : "not drawn");
  document.body.dataset.seen = seen.join("|");
});
</script>
"""


@pytest.fixture
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"there is no browser here: none of {', '.join(NAMES)} is on the PATH")
    return found


@pytest.mark.slow
def test_the_page_works(browser, runs, tmp_path):
    html = page(read(runs)).replace("</body>", f"{READER}</body>")
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=390,800"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    ran = subprocess.run(
        [browser, *options, profile, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = re.search(r'data-seen="([^"]*)"', ran.stdout)
    assert seen is not None, ran.stderr
    assert seen[1].split("|") == ["3 2.5", "2.5 3", "3 2.5", "none inline", "fits", "drawn"]
    assert [line for line in ran.stderr.splitlines() if "CONSOLE" in line] == []
