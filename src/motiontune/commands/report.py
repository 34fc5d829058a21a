"""`motiontune report`: one page about a run, from what lies in its output folder."""

from motiontune.runs.report import CLIPS as CLIPS
from motiontune.runs.report import report as report
