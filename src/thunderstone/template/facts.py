"""What a new package says about its author and its host, found out instead of asked for."""

from __future__ import annotations

import importlib.metadata
import subprocess
from dataclasses import dataclass
from datetime import date
from email.errors import HeaderParseError
from email.headerregistry import Address

import thunderstone


@dataclass(frozen=True)
class Facts:
    """What the template is filled in with beside names.

    Attributes:
        author: A line of text.
        email: An address that packaging accepts, or None.
        year: Of the copyright.
        host: The oldest version of thunderstone the package asks for, ``"0.1"``.
        api: The version of the contract it is written for.
        python: What it asks of Python, ``">=3.10"``.
    """

    author: str
    email: str | None
    year: int
    host: str
    api: str
    python: str


def facts_for(distribution: str) -> Facts:
    """What is known here: author and address from git's configuration, versions from the installed host."""
    return Facts(
        author=_configured("user.name") or f"The authors of {distribution}",
        email=_address(_configured("user.email")),
        year=date.today().year,
        host=".".join(thunderstone.__version__.split(".")[:2]),
        api=thunderstone.API_VERSION,
        python=importlib.metadata.metadata("thunderstone")["Requires-Python"],
    )


def _configured(key: str) -> str | None:
    try:
        done = subprocess.run(["git", "config", "--get", key], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git, no name
    return " ".join(done.stdout.decode(errors="replace").split()) or None


def _address(found: str | None) -> str | None:
    if found is None:
        return None
    try:
        return Address(addr_spec=found).addr_spec
    except (HeaderParseError, ValueError, IndexError):
        return None  # what git takes for an address, a build would refuse
