"""transformers' way to FlashAttention-2, as far as a CPU can follow it: up to the kernel, which is stubbed.

transformers 5.6.0 stops there with "'NoneType' object has no attribute 'to'" for every model without attention sinks
(huggingface/transformers#45588), unless it is mended.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations import flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from motiontune.model.wrappers import mend_flash_attention


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_call_reaches_the_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any) -> torch.Tensor:
        given.update(options, shapes=[tuple(tensor.shape) for tensor in (query, key, value)])
        return value.repeat_interleave(2, dim=2)

    monkeypatch.setattr(flash_attention, "_flash_attention_forward", kernel)
    layer = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    config = SimpleNamespace(_attn_implementation="flash_attention_2")
    module = SimpleNamespace(config=config, is_causal=True, modules=lambda: [layer], layer_idx=3)
    query, key = torch.randn(2, 4, 6, 8, dtype=dtype), torch.randn(2, 2, 6, 8, dtype=dtype)
    mend_flash_attention()
    mend_flash_attention()  # changes nothing
    output, weights = ALL_ATTENTION_FUNCTIONS["flash_attention_2"](
        module, query, key, key, None, scaling=0.5, position_ids=torch.arange(6)[None]
    )
    assert weights is None
    torch.testing.assert_close(
        output, key.transpose(1, 2).repeat_interleave(2, dim=2)
    )  # [batch, sequence, head, width]
    assert given["shapes"] == [(2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8)]
    assert given["is_causal"] and given["softmax_scale"] == 0.5 and given["query_length"] == 6
    assert given["target_dtype"] == (torch.bfloat16 if dtype == torch.float32 else None)
    assert given.get("s_aux") is None
