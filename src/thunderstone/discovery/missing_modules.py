"""What to install where a plug-in's import fails because a module is not there."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, entry_points, metadata
from importlib.util import find_spec

from thunderstone.discovery.hookspecs import GROUP
from thunderstone.discovery.settings import normalized

# Modules whose distribution has another name, among what training code imports.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "google": "protobuf",
    "ot": "pot",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def what_to_install(error: BaseException, module: str, distribution: str) -> str:
    """What to do about an import that failed for want of a module; empty when it failed for another reason.

    Args:
        error: What the import raised.
        module: What was imported, e.g. ``"thunderstone_sharpness.plugin"``.
        distribution: The distribution it belongs to. Where one of its extras requires what is missing, the answer is
            ``pip install 'distribution[extra]'``. A name that no requirement confirms is not guessed: who installs by
            the name of a module may get a stranger's package.
    """
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if not missing:
        return ""
    if f"{module}.".startswith(f"{missing}."):
        return f"reinstall or fix {distribution}, which names its own module {missing!r} and does not have it"
    package = missing.partition(".")[0]
    if missing != package and _is_there(package):
        return ""  # the installed version is another than the one that has this part
    wanted = _as_required(normalized(_DISTRIBUTIONS.get(package, package)), distribution)
    return f"pip install {wanted!r}" if wanted else f"install what provides the module {missing!r}"


def what_to_install_for(error: BaseException, module: str) -> str:
    """`what_to_install` for a module of whichever plug-in has its package."""
    package = module.partition(".")[0]
    for point in entry_points(group=GROUP):
        if point.dist is not None and point.value.partition(":")[0].partition(".")[0] == package:
            return what_to_install(error, module, point.dist.metadata["Name"])
    return ""


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _as_required(wanted: str, distribution: str) -> str | None:
    """What pip is to be given for a distribution that `distribution` requires, always or for an extra."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        described = metadata(distribution)
    except PackageNotFoundError:
        return None
    for line in described.get_all("Requires-Dist") or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if normalized(requirement.name) != wanted:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            return f"{requirement.name}{requirement.specifier}"
        for extra in described.get_all("Provides-Extra") or []:
            if requirement.marker.evaluate({"extra": extra}):
                return f"{distribution}[{extra}]"
    return None
