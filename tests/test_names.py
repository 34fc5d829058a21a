"""The names of LLaMA-Factory that motiontune leans on: all there, and missed with a readable message."""

import pytest

from motiontune.errors import MotiontuneError


def names():
    from motiontune.llamafactory.names import NAMES

    return NAMES


def test_every_name_is_there():
    from motiontune.llamafactory.names import check_names

    check_names()
    assert len({(owner, name) for owner, name, _ in names()}) == len(names())


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("_TRAIN_ARGS", "llamafactory.hparams.parser._TRAIN_ARGS"),
        ("run_sft", "llamafactory.train.tuner.run_sft"),
        ("eval_logit_processor", "llamafactory.train.sft.workflow.eval_logit_processor"),
        (
            "_encode_data_example",
            "llamafactory.data.processor.supervised.SupervisedDatasetProcessor._encode_data_example",
        ),
        ("_get_qwen_video_resize", "llamafactory.data.mm_plugin.Qwen2VLPlugin._get_qwen_video_resize"),
    ],
)
def test_a_name_that_is_gone_is_named_with_its_use(name, where, monkeypatch):
    from motiontune.llamafactory.names import check_names

    owner, _, use = next(entry for entry in names() if entry[1] == name)
    monkeypatch.delattr(owner, name)
    with pytest.raises(MotiontuneError) as caught:
        check_names()
    message = str(caught.value)
    assert message.startswith(f"{where} is gone: motiontune {use} there. ")
    assert "pip install 'motiontune[llamafactory]'" in message and "\n" not in message


def test_installing_twice_changes_nothing():
    from llamafactory.hparams import parser
    from llamafactory.train import tuner

    from motiontune.llamafactory.install import install

    install()
    before = [*parser._TRAIN_ARGS, *parser._INFER_ARGS, tuner.run_sft, tuner.run_exp, tuner.get_train_args]
    install()
    assert [*parser._TRAIN_ARGS, *parser._INFER_ARGS, tuner.run_sft, tuner.run_exp, tuner.get_train_args] == before
