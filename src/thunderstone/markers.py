"""What both levels of the contract (discovery and attachment) share: its version, pluggy's markers, and how a part of
it is announced to leave."""

import pluggy

PROJECT = "thunderstone"

API_VERSION = "1.0"
"""Version of the contract, major.minor. The minor one goes up when a hook, an argument or a name is added; the major
one when something is taken away, which a `ContractWarning` announces for at least one minor version before."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ContractWarning(FutureWarning):
    """A plug-in implements a hook, or asks for one of its arguments, that a later contract will not have.

    A FutureWarning, since Python shows those to everybody: whoever reads it can tell the plug-in's author.
    """


def leaving(what: str, *, since: str, until: str, instead: str) -> ContractWarning:
    """The warning for a specification's ``warn_on_impl`` or ``warn_on_impl_args``; pluggy adds file and line.

    Args:
        what: What is leaving, e.g. ``"the hook 'after_update'"``.
        since: The contract's version that says so first, e.g. ``"1.1"``.
        until: The contract's version that will be without it, e.g. ``"2.0"``.
        instead: What to do, as an imperative: ``"implement 'after_step'"``.
    """
    return ContractWarning(
        f"{what} leaves thunderstone's contract with version {until} (deprecated since {since}). HINT: {instead}"
    )
