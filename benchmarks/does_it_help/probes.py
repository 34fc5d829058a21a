"""What a linear probe reads off each stage of a model: the answer may be there long before the model gives it.

Shapes: N clips, D numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


STRENGTHS = (10.0, 100.0, 1000.0, 10000.0)
"""Of the ridge; a third of what a probe is fitted to decides."""


def stages(model: Any, inputs: dict[str, Any], positions: Tensor, answers: Tensor) -> dict[str, Tensor]:
    """Run a model, and keep what each stage makes of each clip, float32 [N, D].

    Args:
        model: with a motion head, made whole.
        inputs: of its forward, of N clips.
        positions: int64, of the video tokens of all rows, one after the other.
        answers: int64 [N], positions that predict the answer's first token.

    Returns:
        "encoder" (patches), "projector", "layer_K" and "last_hidden" (video tokens), and "answer" (the last hidden
        state from which the answer is predicted).
    """
    found: dict[str, Tensor] = {}
    inner, count = model.model, len(answers)
    layers, merger = inner.language_model.layers, inner.visual.merger

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found[name] = hidden.flatten(0, 1)[positions].view(count, -1)

        return hook

    def keep_merger(module: nn.Module, args: Any, output: Tensor) -> None:
        found["encoder"], found["projector"] = args[0].reshape(count, -1), output.reshape(count, -1)

    hooks = [merger.register_forward_hook(keep_merger)]
    hooks += [layer.register_forward_hook(keep(f"layer_{k}")) for k, layer in enumerate(layers[:-1], 1)]
    try:
        hidden = inner(**inputs)[0]
    finally:
        for hook in hooks:
            hook.remove()
    found["last_hidden"] = hidden.flatten(0, 1)[positions].view(count, -1)
    found["answer"] = hidden[torch.arange(count, device=hidden.device), answers]
    return {name: value.float() for name, value in found.items()}


def linear_probe(features: Tensor, answers: Tensor, fitted: int) -> float:
    """Fit ridge regression to the first clips; return its share of right answers of the others.

    Args:
        features: float32 [N, D].
        answers: int64 [N].
        fitted: how many clips it is fitted to.
    """
    x = features.double()
    x = (x - x[:fitted].mean(0)) / x[:fitted].std(0).clamp(min=1e-6)
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    wanted = torch.nn.functional.one_hot(answers).double()

    def right(begin: int, end: int, test: slice, strength: float) -> float:
        """Of a fit to clips from `begin` to `end`, in its dual form: there are fewer clips than numbers."""
        seen = x[begin:end]
        gram = seen @ seen.T + strength * torch.eye(end - begin, dtype=x.dtype, device=x.device)
        guesses = (x[test] @ seen.T) @ torch.linalg.solve(gram, wanted[begin:end])
        return (guesses.argmax(1) == answers[test]).double().mean().item()

    part = fitted * 2 // 3
    best = max(STRENGTHS, key=lambda strength: right(0, part, slice(part, fitted), strength))
    return round(right(0, fitted, slice(fitted, None), best), 4)
