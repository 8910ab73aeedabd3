"""The pluggy markers both levels of the contract share (discovery and attachment)."""

import pluggy

PROJECT = "thunderstone"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
