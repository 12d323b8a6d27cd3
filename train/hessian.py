"""Hutchinson's estimate of the Hessian trace of every layer, from the same Hessian-vector products."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def layer_traces(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Estimate Tr(H_l) for every parameter tensor l, H_l the diagonal block of the loss's Hessian.

    With v of independent ±1 (over all parameters at once), the mean of v_l · (Hv)_l is unbiased for Tr(H_l):
    the off-diagonal blocks average out.

    Args:
        loss: computes the scalar loss afresh, differentiable twice in `parameters`.
        parameters: L tensors that require a gradient.
        samples: number of vectors, at least 1. generator: on the CPU; makes the estimate repeatable.
    Returns:
        (estimates, standard errors), float32 of shape (L,) each; the error is nan for one sample.
    Source: Hutchinson (1989); PyHessian (arXiv 1912.07145), section 3; per layer as in HAWQ-V2 (arXiv 1911.03852).
    """
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    rows = []
    for sample in range(samples):
        vectors = [
            (torch.randint(0, 2, p.shape, generator=generator, dtype=torch.int8) * 2 - 1).to(p) for p in parameters
        ]
        products = torch.autograd.grad(
            gradients, parameters, grad_outputs=vectors, retain_graph=sample + 1 < samples, materialize_grads=True
        )
        rows.append(torch.stack([(v * hv).sum() for v, hv in zip(vectors, products, strict=True)]).detach().cpu())
    estimates = torch.stack(rows).float()
    return estimates.mean(0), estimates.std(0) / samples**0.5
