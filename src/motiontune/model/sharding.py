"""Parameters that an engine has split over processes, in one way: gather them, fill them, ask if they are split.

ZeRO-3 (DeepSpeed) leaves an empty tensor where a parameter was, FSDP2 a `DTensor`, FSDP1 a view of a flat parameter,
or nothing. Under DDP and ZeRO-1 and 2 every process has all of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(module: nn.Module) -> bool:
    """Whether every call of a module is a collective, which all processes must make equally often.

    It is so where ZeRO-3 has split the module's parameters, and where the module is a unit of FSDP's. What lies in the
    root's unit is gathered once for the whole forward pass.
    """
    if any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
        return True
    return any(isinstance(each, (FSDPModule, FullyShardedDataParallel)) for each in module.modules())


def gather(model: nn.Module, module: nn.Module) -> dict[str, Tensor]:
    """Copy the whole parameters of a small module to the CPU. All processes must call it, and all get them.

    Args:
        model: the model as the engine has wrapped it.
        module: a part of it, wrapped or not.

    Returns:
        float32, by the parameter's own name, such as "weight".
    """
    with _whole(model, module, write=False) as tensors:
        return {name: _local(tensor).detach().float().cpu().clone() for name, tensor in tensors.items()}


def fill(model: nn.Module, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put whole parameters into a module. All processes must call it.

    Args:
        model: the model as the engine has wrapped it.
        module: a part of it.
        state: as `gather` returns it.
    """
    with _whole(model, module, write=True) as tensors:
        for name, tensor in tensors.items():
            fill_parameter(tensor, state[name])


@torch.no_grad()
def fill_parameter(parameter: Tensor, whole: Tensor) -> None:
    """Put a whole tensor into a parameter, of which FSDP2 may have left a part here. All processes must call it."""
    value = whole.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    parameter.copy_(value)


def _local(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def _whole(model: nn.Module, module: nn.Module, write: bool) -> Iterator[dict[str, Tensor]]:
    """The module's parameters, whole for ZeRO-3 and FSDP1 as long as the context lasts."""
    engine: Any = nullcontext()
    parameters = list(module.parameters())
    units = [unit for unit in model.modules() if isinstance(unit, FullyShardedDataParallel)]
    holder = [unit for unit in units if any(each is module for each in unit.modules())]
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        from deepspeed import zero

        engine = zero.GatheredParameters(parameters, modifier_rank=0 if write else None)
    elif holder:  # the innermost unit alone: the root's has the embeddings, but no layer
        engine = FullyShardedDataParallel.summon_full_params(holder[-1], recurse=False, writeback=write)
    with engine:
        inner = module.module if isinstance(module, FullyShardedDataParallel) else module
        # without `use_orig_params`, what FSDP1 leaves in a parameter's place is a plain tensor
        yield {name: getattr(inner, name) for name in ("weight", "bias")}
