"""Put pip into a virtual environment whose Python came without ensurepip (Debian's `python3` without `python3-venv`).

Run it with the environment's own interpreter: `.venv/bin/python .ci/bootstrap_pip.py`. It needs the standard library
only: the newest pip wheel is fetched from PyPI, checked against the digest PyPI states, and asked to install itself.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import urlopen

INDEX = "https://pypi.org/pypi/pip/json"
TIMEOUT_SECONDS = 60


def main() -> int:
    with urlopen(INDEX, timeout=TIMEOUT_SECONDS) as response:
        releases = json.load(response)["urls"]
    release = next(entry for entry in releases if entry["packagetype"] == "bdist_wheel")
    with urlopen(urljoin(INDEX, release["url"]), timeout=TIMEOUT_SECONDS) as response:
        content = response.read()
    if hashlib.sha256(content).hexdigest() != release["digests"]["sha256"]:
        sys.exit(f"The digest of {release['filename']} is not the one {INDEX} states; nothing was installed.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / release["filename"]
        wheel.write_bytes(content)
        # A wheel is a zip archive, and pip can run from inside its own.
        return subprocess.run([sys.executable, f"{wheel}/pip", "install", "--no-index", str(wheel)]).returncode


if __name__ == "__main__":
    sys.exit(main())
