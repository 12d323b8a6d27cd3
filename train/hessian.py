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
    rows = []
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    for sample in range(samples):
        vectors = [
            (torch.randint(0, 2, p.shape, generator=generator, dtype=torch.int8) * 2 - 1).to(p) for p in parameters
        ]
        try:
            products = torch.autograd.grad(
                gradients, parameters, grad_outputs=vectors, retain_graph=sample + 1 < samples, materialize_grads=True
            )
        except RuntimeError as error:
            # Some operators (hardsigmoid, hardswish, fused attention) have no second derivative in PyTorch.
            if "derivative for" not in str(error):
                raise
            products = _by_differences(loss, parameters, vectors)
        rows.append(torch.stack([(v * hv).sum() for v, hv in zip(vectors, products, strict=True)]).detach().cpu())
    estimates = torch.stack(rows).float()
    spread = estimates.std(0) if samples > 1 else torch.full_like(estimates[0], torch.nan)
    return estimates.mean(0), spread / samples**0.5


def _by_differences(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return Hv as the central difference of gradients, (∇L(w + εv) − ∇L(w − εv)) / 2ε, ε a thousandth of the mean |w|.

    ε is each tensor's own, so that layers of small weights are not thrown far; the product then is that of the
    Hessian with a vector that has ε_l·v_l in layer l, which is divided by ε_l again: off-diagonal blocks still average
    out.
    """
    steps = [1e-3 * parameter.detach().abs().mean().clamp_min(1e-8) for parameter in parameters]
    sides = []
    with torch.no_grad():
        originals = [parameter.clone() for parameter in parameters]
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for parameter, original, step, vector in zip(parameters, originals, steps, vectors, strict=True):
                parameter.copy_(original + sign * step * vector)
        sides.append(torch.autograd.grad(loss(), parameters, materialize_grads=True))
    with torch.no_grad():
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.copy_(original)
    return tuple((up - down) / (2 * step) for up, down, step in zip(*sides, steps, strict=True))
