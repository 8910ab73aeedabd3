"""The subject that a method's declaration names."""

from __future__ import annotations

from thunderstone.discovery.lookup import class_of
from thunderstone.errors import BrokenPluginError
from thunderstone.specs import MethodSpec
from thunderstone.testing.subject import Subject


def subject_of(spec: MethodSpec) -> Subject:
    """What `spec.conformance` names; where it names nothing, the method with the kit's own settings.

    Args:
        spec: A method's declaration, e.g. one of those that a plug-in's ``thunderstone_methods()`` returns.

    Raises:
        BrokenPluginError: The method or the subject cannot be imported, or the latter is no `Subject`.
    """
    target = spec.load_conformance()
    if target is None:
        return Subject(spec.name, class_of(spec))
    if isinstance(target, Subject):
        return target
    if not isinstance(target, type) and callable(target):
        try:
            made = target()
        except Exception as error:
            raise BrokenPluginError(
                f"method {spec.name!r} declares conformance={spec.conformance!r}, which raises "
                f"{type(error).__name__}: {error}. HINT: it is called without arguments and returns a Subject"
            ) from error
        if isinstance(made, Subject):
            return made
        target = made
    raise BrokenPluginError(
        f"method {spec.name!r} declares conformance={spec.conformance!r}, which is a {type(target).__name__} and not a "
        f"thunderstone.testing.Subject. HINT: Subject({spec.name!r}, {spec.target.rpartition(':')[2]})"
    )
