"""Ensembles from what serves now. Putting one together costs no session."""

from dataclasses import replace
from pathlib import Path

from bundle.errors import BundleError
from bundle.serving import ENSEMBLE, Member, read_ensemble
from service.ensemble import Ensemble, load_ensemble
from service.errors import ModelNotFoundError, ModelNotReadyError
from service.index import Index, Version
from service.loading import attempt
from service.model import ServedModel
from service.names import require_own_name


class Joiner:
    """Finds the members in the index."""

    def __init__(self, index: Index, repository: Path) -> None:
        self._index = index
        self._repository = repository

    def renew(self, name: str, before: Version) -> tuple[Version, str]:
        """The line of the ensemble of that name, and why it was refused.

        One that is refused leaves the one before, while all of that one's members serve. One that is the same stays.
        """
        found = attempt(name, lambda: self._join(name))
        reason = found.reason
        if isinstance(before.model, Ensemble):
            if found.refused and self._stands(before.model):
                found = replace(before, reason=f"{reason} (the one before still serves)", refused=True)
            elif isinstance(found.model, Ensemble) and _same(found.model, before.model):
                found = replace(found, model=before.model)
        return found, reason

    def _join(self, name: str) -> Version:
        require_own_name(self._repository, name)
        return Version("READY", load_ensemble(name, read_ensemble(self._repository / name), self._member))

    def _stands(self, ensemble: Ensemble) -> bool:
        return all(self._serves(member.model) for member in ensemble.members)

    def _serves(self, member: ServedModel) -> bool:
        return self._index.holds(lambda model: model is member)

    def _member(self, member: Member) -> ServedModel:
        """Raises BundleError: there is no such model, it does not serve, or it is an ensemble itself."""
        if None in self._index.line(member.model):
            raise BundleError(f"{ENSEMBLE}: {member.model} is an ensemble itself; list its members")
        try:
            model = self._index.get(member.model, member.version)
        except (ModelNotFoundError, ModelNotReadyError) as error:
            raise BundleError(f"{ENSEMBLE}: {error}") from error
        assert isinstance(model, ServedModel)  # noqa: S101 for the type checker; ensembles are refused above
        return model


def _same(one: Ensemble, other: Ensemble) -> bool:
    return one.members == other.members and one.partial == other.partial
