"""The folders of a run's output folder that evaluation and prediction write to. Imports nothing."""

PREDICTIONS_FOLDER = "motion_predictions"
"""One `MotionComparison` per clip: `NUMBER.npz` of the sample, and `NUMBER-K.npz` of its further clips."""

PICTURES_FOLDER = "motion_pictures"
"""One sheet per evaluation: `eval-STEP.png`."""
