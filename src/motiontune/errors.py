"""What goes wrong for reasons that a user can change; `motiontune` prints these in one line, without a traceback."""


class MotiontuneError(Exception):
    """A mistake in the configuration or the input. The message names the file, sample or key and what to do."""


class ConfigError(MotiontuneError):
    """A key, or a combination of keys, that cannot be run."""


class ClipError(MotiontuneError):
    """A clip that cannot be read: missing, empty, truncated, without video, or with fewer frames than it says.

    Args:
        path: the file, as the user named it.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that the error survives pickling between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MotionUnavailable(MotiontuneError):
    """The chosen source has no motion for this clip (a codec without vectors, say). The clip's pixels are fine."""


class HeadError(MotiontuneError):
    """A saved motion head that does not fit the model or the processor; the message has both numbers."""
