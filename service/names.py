"""Names that would stand for two things."""

from pathlib import Path

from bundle import store
from bundle.errors import BundleError
from bundle.plans import PUBLISHED, read_plans


def require_own_name(repository: Path, name: str) -> None:
    """Raises BundleError: the Open Inference Protocol would call a plan of another model so (NAME-PLAN)."""
    base, _, plan = name.rpartition("-")
    if base not in store.names(repository):
        return
    if plan in PUBLISHED or plan in read_plans(repository / base)[0]:
        raise BundleError(
            f"{name} is also what clients of the Open Inference Protocol call the plan {plan} of the model {base};"
            " give the folder another name"
        )
