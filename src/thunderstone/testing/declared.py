"""The subject that a method's declaration names."""

from __future__ import annotations

from thunderstone.attachment.method import Method
from thunderstone.discovery.lookup import check_arguments, class_of
from thunderstone.errors import ArgumentError, BrokenPluginError, sentence
from thunderstone.specs import MethodSpec
from thunderstone.testing.subject import Subject


def subject_of(spec: MethodSpec) -> Subject:
    """What `spec.conformance` names; where it names nothing, the method with the kit's own settings.

    Args:
        spec: A method's declaration, e.g. one of those that a plug-in's ``thunderstone_methods()`` returns.

    Raises:
        BrokenPluginError: The method or the subject cannot be imported, the latter is no `Subject` or one of another
            class, or there is none and the method cannot be made without arguments. Or the class has another name.
    """
    target = spec.load_conformance()
    if target is None:
        return _of_the_kit(spec)
    if isinstance(target, Subject):
        return _of_its_class(spec, target)
    if not isinstance(target, type) and callable(target):
        try:
            made = target()
        except Exception as error:
            raise BrokenPluginError(
                f"method {spec.name!r} declares conformance={spec.conformance!r}, which raises "
                f"{type(error).__name__}: {sentence(error)} HINT: it is called without arguments and returns a Subject"
            ) from error
        if isinstance(made, Subject):
            return _of_its_class(spec, made)
        target = made
    raise BrokenPluginError(
        f"method {spec.name!r} declares conformance={spec.conformance!r}, which is a {type(target).__name__} and not a "
        f"thunderstone.testing.Subject. HINT: Subject({spec.name!r}, {spec.target.rpartition(':')[2]})"
    )


def _require_one_name(spec: MethodSpec, cls: type[Method]) -> None:
    """Users would type the one name and find the method's metrics under the other."""
    if cls.name and cls.name != spec.name:
        raise BrokenPluginError(
            f"method {spec.name!r} is {cls.__name__}, whose name is {cls.name!r}: what it reports would be named "
            f"{cls.name}/…, and is looked for under {spec.name}/…. HINT: name: ClassVar[str] = {spec.name!r}"
        )


def _of_the_kit(spec: MethodSpec) -> Subject:
    cls = class_of(spec)
    _require_one_name(spec, cls)
    try:
        check_arguments(cls, {})
    except ArgumentError as error:
        raise BrokenPluginError(
            f"method {spec.name!r} declares no conformance=, and {cls.__name__} cannot be made without "
            f"{error.argument}=. HINT: let conformance= name a Subject({spec.name!r}, ...) that gives it"
        ) from error
    return Subject(spec.name, cls)


def _of_its_class(spec: MethodSpec, subject: Subject) -> Subject:
    """The subject, unless it makes another class: this method would seem to keep rules that nobody held it to."""
    try:
        made = subject.default()
    except Exception:
        return subject  # every check of it says so
    cls = class_of(spec)
    if type(made) is not cls:
        raise BrokenPluginError(
            f"method {spec.name!r} declares conformance={spec.conformance!r}, which makes a {type(made).__name__} and "
            f"not a {cls.__name__}. HINT: give {cls.__name__} a Subject({spec.name!r}, ...) of its own"
        )
    _require_one_name(spec, cls)
    return subject
