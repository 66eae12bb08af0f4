"""What can go wrong between a checkpoint and a bundle.

    name of a network -> ExportError
    public weights -> fetch -> DownloadError
    checkpoint -> load -> WeightsError
    network -> train -> TrainingError
    network -> fold, prove -> FoldError
    network -> to_onnx -> GraphError
    graph -> compare, require -> ParityError

Nothing is published after any of them. Each message names the thing, the value and the way out.
"""

from bundle.manifest import Parity


class ExportError(ValueError):
    """No bundle can be made of what was asked."""


class DownloadError(ExportError):
    """Public weights that cannot be had, or are not what they should be."""


class WeightsError(ExportError):
    """A checkpoint that cannot be read, or that is not of this network."""


class TrainingError(ExportError):
    """A training that diverged, or that cannot go on where it was."""


class FoldError(ExportError):
    """A BatchNorm that cannot be folded into its convolution, or a folding that changed the function."""


class GraphError(ExportError):
    """An ONNX graph that is not what a bundle promises."""


class ParityError(ExportError):
    """The graph does not answer as torch does; `parity` is the whole report."""

    def __init__(self, parity: Parity) -> None:
        failed = [case for case in parity.cases if not case.max_rel <= parity.tolerance]
        report = "; ".join(
            f"batch {c.batch} at {c.height} x {c.width} by {c.max_rel:.2g}, top-1 {c.top1_agreement:.0%}"
            for c in failed
        )
        super().__init__(
            f"the graph differs from torch ({report}; {parity.tolerance:.2g} of the largest logit is allowed); "
            "nothing was published, report it with the network's name"
        )
        self.parity = parity
