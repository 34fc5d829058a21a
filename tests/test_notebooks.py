"""The notebooks in `examples/` run from top to bottom, and are kept without output."""

import os

import pytest

from training import REPOSITORY


nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed: it is in the extra `dev`")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: it is in the extra `dev`")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: it is in the extra `dev`")

EXAMPLES = REPOSITORY / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def executed(name, monkeypatch, **replaced):
    """A notebook with its outputs, after texts in its code were replaced; each must be there."""
    paths = [str(REPOSITORY / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    for cell in notebook.cells:
        for old in [one for one in replaced if f"{one} = " in cell.source]:
            line = next(line for line in cell.source.splitlines() if line.startswith(f"{old} = "))
            cell.source = cell.source.replace(line, f"{old} = {replaced.pop(old)}")
    assert not replaced
    return nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()


def shown(notebook, kind):
    """What cells show, of one kind, such as "text/plain" or "image/png"; what they print is "stream"."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [output.text for output in outputs if output.output_type == "stream"]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_without_output(name):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_the_motion_of_a_clip_in_three_ways(monkeypatch):
    notebook = executed("motion_of_a_clip.ipynb", monkeypatch)
    assert len(shown(notebook, "image/png")) == 6  # the clip, three plots, two fields
    assert max(map(len, shown(notebook, "text/plain"))) < 500
    errors = dict(line.split()[:2] for line in "".join(shown(notebook, "stream")).splitlines() if " px over " in line)
    assert set(errors) == {"codec", "blockmatch", "flow"} and all(float(one) < 1.5 for one in errors.values()), errors


@pytest.mark.slow  # it starts LLaMA-Factory twice
def test_train_predict_and_look(monkeypatch):
    notebook = executed("train_predict_look.ipynb", monkeypatch, STEPS=10)
    text = shown(notebook, "text/plain")
    assert any(one.startswith("MotionPrediction(") and "codec+flow" in one for one in text)
    assert any("'epe_moving'" in one for one in text) and len(shown(notebook, "image/png")) == 1
    assert any("no motion" in one for one in shown(notebook, "stream"))
