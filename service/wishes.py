"""What lies beside the versions of a model (plans, calibrations, the operator's defaults), for one of them."""

from pathlib import Path
from typing import Protocol

import numpy as np

from bundle.aggregate import Average
from bundle.calibration import Calibration, find_rule, read_calibrations
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.plan import Plan
from bundle.plans import PUBLISHED, read_plans
from bundle.serving import SERVING, Serving
from bundle.stop import Confident, Exact, Never, Rule, StopOption
from service.errors import InvalidParameterError, UnknownViewsError
from service.work import Asked, Choice


class Known(Protocol):
    """A bundle, or a version that serves: what is wished of it may change while it does."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def manifest(self) -> Manifest: ...


class Wishes:
    """Read once, when the version is loaded or what lies beside it has changed.

    Args:
        folder: NAME in the repository.
        serving: its serving.toml.
        bundle: the version.

    Raises:
        BundleError: the network cannot run the plan of requests that name none.
    """

    def __init__(self, folder: Path, serving: Serving, bundle: Known) -> None:
        self._name = bundle.name
        self.serving = serving
        custom, self.refused = read_plans(folder)
        """The reason for each plan that it cannot run."""
        self.remarks = list(self.refused.values())
        """What is wrong and does not keep it from serving."""
        self.plans: dict[str, Plan] = {}
        for name, plan in {**PUBLISHED, **custom}.items():
            if reason := plan.refusal(bundle.manifest.input):
                self.refused[name] = reason
            else:
                self.plans[name] = plan
        self._offer(serving.plans)
        self._calibrations = self._read_calibrations(folder, bundle.digest)
        self._require_default()

    @property
    def calibrated(self) -> list[str]:
        """The plans that `stop=confident` may be asked of, averaged as they were calibrated."""
        return [name for name, plan in self.plans.items() if self._is_calibrated(plan)]

    def plan(self, name: str) -> Plan:
        """Raises UnknownViewsError: there is none of that name, or the network cannot run it."""
        if plan := self.plans.get(name):
            return plan
        if reason := self.refused.get(name):
            raise UnknownViewsError(f"{self._name} cannot run {name}: {reason}")
        known = ", ".join(self.plans)
        if self.serving.plans is not None:
            raise UnknownViewsError(f"{self._name} does not offer the view plan {name[:64]!r}; it offers {known}")
        raise UnknownViewsError(f"{self._name} has no view plan {name[:64]!r}; it has {known}")

    def choose(self, asked: Asked) -> Choice:
        """What the client, the operator and the plan want together; who comes first in this order decides.

        Raises:
            UnknownViewsError: as `plan`.
            InvalidParameterError: no such stop, or one that does not hold for the plan and the average.
        """
        plan = self.plan(self.serving.views if asked.views is None else asked.views)
        average = asked.average or self.serving.average or plan.average or "probabilities"
        try:
            rule = self._rule(asked.stop, plan, average)
        except ValueError as error:  # its words are for clients
            raise InvalidParameterError(f"{self._name}: {error}") from error
        priority = self.serving.priority if asked.priority is None else asked.priority
        return Choice(plan, average, rule, _text(rule), asked.merge, asked.detail, priority)

    def _rule(self, asked: str | None, plan: Plan, average: Average) -> Rule:
        """Where the operator's own rule does not hold (for a plan without calibration, say) all views are run."""
        if asked is not None:
            return find_rule(StopOption.parse(asked), plan, average, self._calibrations)
        try:
            return find_rule(StopOption.parse(self.serving.stop), plan, average, self._calibrations)
        except ValueError:
            return Never()

    def _offer(self, offered: tuple[str, ...] | None) -> None:
        """Leaves the plans that the operator lists; raises BundleError when one of them cannot be run."""
        if offered is None:
            return
        for name in offered:
            if name not in self.plans:
                raise BundleError(f"{SERVING}: plans: {name[:64]!r}: {self._why_not(name)}")
        self.plans = {name: plan for name, plan in self.plans.items() if name in offered}
        self.refused = {}

    def _why_not(self, name: str) -> str:
        return self.refused.get(name, f"there is no such plan; choose one of {', '.join(self.plans)}")

    def _require_default(self) -> None:
        views = self.serving.views
        if views not in self.plans:
            raise BundleError(f"{SERVING}: views = {views[:64]!r}: {self._why_not(views)}")
        try:
            self.choose(Asked(stop=self.serving.stop))
        except InvalidParameterError as error:
            self.remarks.append(f"{SERVING}: stop = {self.serving.stop!r} is not done: {error}")

    def _read_calibrations(self, folder: Path, digest: str) -> dict[str, Calibration]:
        try:
            return read_calibrations(folder, digest)
        except BundleError as error:
            self.remarks.append(str(error))
        except OSError:
            self.remarks.append("the calibrations cannot be read")
        return {}

    def _is_calibrated(self, plan: Plan) -> bool:
        found = self._calibrations.get(plan.name)
        if found is None:
            return False
        try:
            find_rule(StopOption("confident"), plan, found.average, self._calibrations)
        except ValueError:  # the plan was changed since
            return False
        return True


def _text(rule: Rule) -> str:
    match rule:
        case Confident(threshold=threshold):
            # as `StopOption.parse` reads it
            return f"confident:{np.format_float_positional(threshold, precision=9, trim='0')}"
        case Exact():
            return "exact"
        case _:
            return "never"
