"""What a command works on: a bundle in its repository, and plans that it can run."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bundle.plan import Plan
from bundle.plans import PUBLISHED, read_plans
from bundle.store import Bundle, open_bundle, versions
from export.errors import ExportError


class Target(NamedTuple):
    folder: Path
    """NAME in the repository; what is learned of the bundle is kept there, beside its versions."""
    bundle: Bundle

    @property
    def name(self) -> str:
        """NAME/VERSION."""
        return f"{self.bundle.name}/{self.bundle.version}"

    def plans(self, names: Iterable[str]) -> list[Plan]:
        """The published and custom plans of these names.

        Raises:
            ExportError: there is no such plan, its file is none, or the bundle cannot run it.
        """
        custom, refused = read_plans(self.folder)
        return [self._plan(name, {**PUBLISHED, **custom}, refused) for name in names]

    def _plan(self, name: str, known: dict[str, Plan], refused: dict[str, str]) -> Plan:
        if name in refused:
            raise ExportError(refused[name])
        if name not in known:
            raise ExportError(f"{self.bundle.name} has no plan {name!r}; choose one of {', '.join(known)}")
        require_plan(self.bundle, known[name])
        return known[name]


def find_bundle(path: Path) -> Target:
    """The bundle at REPOSITORY/NAME/VERSION, or the newest of REPOSITORY/NAME.

    Raises:
        ExportError: no version is there, or not that one.
        BundleError: it is not whole.
    """
    folder = path.resolve()
    named = None
    if folder.name.isdecimal() and not versions(folder.parent, folder.name):
        folder, named = folder.parent, int(folder.name)
    there = versions(folder.parent, folder.name)
    if not there:
        raise ExportError(f"{path} holds no version; name a bundle as REPOSITORY/NAME or REPOSITORY/NAME/VERSION")
    version = there[-1] if named is None else named
    if version not in there:
        raise ExportError(f"{folder.name} has no version {version}; its versions are {', '.join(map(str, there))}")
    return Target(folder, open_bundle(folder.parent, folder.name, version))


def require_plan(bundle: Bundle, plan: Plan) -> None:
    """Raises ExportError where the bundle cannot run the plan."""
    if reason := plan.refusal(bundle.manifest.input):
        raise ExportError(f"{bundle.name} cannot run {plan.name}: {reason}")
