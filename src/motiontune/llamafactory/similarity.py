"""LLaMA-Factory's scores of texts, one by one."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.llamafactory.names import similarity_scores


class _Texts:
    """Stands for a tokenizer whose tokens are whole texts: LLaMA-Factory's metric takes tokens alone."""

    pad_token_id = 0

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)

    def batch_decode(self, rows: NDArray[np.int64], **_: Any) -> list[str]:
        return [self.texts[int(row[0])] for row in rows]


def similarity(texts: Sequence[tuple[str, str]]) -> dict[str, NDArray[np.float64]]:
    """LLaMA-Factory's BLEU and ROUGE of each (answer, label), 0 to 100: name and [texts]."""
    count = len(texts)
    tokenizer = _Texts([*(answer for answer, _ in texts), *(label for _, label in texts)])
    scores = similarity_scores(tokenizer, *np.arange(2 * count).reshape(2, count, 1))
    return {name: np.array(scores[name], np.float64) for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l")}
