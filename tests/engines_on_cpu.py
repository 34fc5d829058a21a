"""Let FSDP 1 and 2 and DeepSpeed really split a model on the CPU (gloo). For tests only, never for users."""

import functools
import importlib
import os
from typing import Any

import torch
from torch import nn


def prepare(engine: str) -> None:
    """Change torch, transformers and accelerate in this process, for good, before the Trainer is made.

    Args:
        engine: its name begins with "fsdp", "zero", or something else, for which nothing happens.
    """
    import transformers.training_args as training_args

    training_args.is_torch_bf16_gpu_available = lambda: True  # asked without `use_cpu`, which engines do not take
    if engine.startswith("fsdp"):
        _shard()
    if engine.startswith("zero"):
        os.environ["DS_ACCELERATOR"] = "cpu"
        backend: Any = importlib.import_module("deepspeed.comm.torch")  # `import ... as` gives torch itself
        backend.build_shm_op = lambda: None  # which takes a minute and a compiler, and serves inference alone
        _wait_for_collectives()


def _wait_for_collectives() -> None:
    """Let every collective end before its call does.

    DeepSpeed 0.18.4 reads what gloo gathers in the background before it is there: under load losses and weights of
    ZeRO-3 then are wrong, 0 or NaN, and differ from run to run.
    """
    import torch.distributed as dist

    def waiting(function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            work = function(*args, **kwargs)
            if work is not None:
                work.wait()
            return work

        return call

    for name in ("all_gather", "all_gather_into_tensor", "all_reduce", "reduce_scatter_tensor", "broadcast"):
        setattr(dist, name, waiting(getattr(dist, name)))


def _shard() -> None:
    """Let accelerate 1.11 use FSDP between CPUs.

    It leaves them out where it decides for FSDP: such a run silently is plain DDP, or stops with "no available devices
    found". Assert that there are units (`units_of`), or a test passes for nothing.
    """
    import accelerate.state as state
    import accelerate.utils.dataclasses as plugins
    import torch.distributed.fsdp._init_utils as init_utils
    import torch.distributed.fsdp.api as api

    original: Any = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type = state.DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = self.distributed_type
            state.PartialState._shared_state["device"] = torch.device("cpu")

    state.AcceleratorState.__init__ = init
    plugins.is_cuda_available = lambda: True  # its plugin asks for a GPU where it syncs module states
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    init_utils._get_device_from_device_id = lambda *args, **kwargs: torch.device("cpu")
    init_utils._check_module_states_for_sync_module_states = lambda *args: None  # gloo broadcasts between CPUs

    # FSDP 1 does not clone what it offloads from the CPU to the CPU: weights are freed in use, and all of an
    # optimizer's states are one buffer (exp_avg saved as exp_avg_sq). A GPU's are copied
    def set_attribute(self: Any, name: str, value: Any) -> None:
        object.__setattr__(self, name, False if name == "offload_to_cpu" else value)

    api.FullStateDictConfig.__setattr__ = set_attribute
    api.FullOptimStateDictConfig.__setattr__ = set_attribute


def units_of(model: nn.Module) -> list[str]:
    """Name the modules that FSDP has wrapped."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    wrappers = (FSDPModule, FullyShardedDataParallel)
    return [name or "<root>" for name, module in model.named_modules() if isinstance(module, wrappers)]
