"""Local response normalisation (Krizhevsky et al., 2012, section 3.3), as one operator.

torch's own function is six operators, and every exporter writes six nodes; here it is one, `multicrop::lrn`, that a
graph may translate to ONNX's `LRN`.
"""

import torch
from torch import nn
from torch.nn.functional import local_response_norm


@torch.library.custom_op("multicrop::lrn", mutates_args=())
def lrn(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """What torch's `local_response_norm`, where alpha multiplies the mean, gives; it has no gradient."""
    return local_response_norm(x, size, alpha, beta, k)


@lrn.register_fake
def _(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    del size, alpha, beta, k  # they do not change the shape
    return torch.empty_like(x)


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha * S) ** beta, where S is the sum of a ** 2 over `size` neighbouring channels, a's own amidst.

    That is the paper's alpha, and these are its constants. torch, Caffe and ONNX divide alpha by `size`: theirs is
    `size` times this one. The channels beyond the first and the last count as 0.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"{size} channels have no middle; size must be odd")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalize = local_response_norm if self.training else lrn  # a gradient is wanted only in training
        y: torch.Tensor = normalize(x, self.size, self.alpha * self.size, self.beta, self.k)
        return y
