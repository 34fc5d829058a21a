"""The patch grid of one video: where the vision encoder's patches lie, and the order of the video tokens."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class VideoGrid:
    """Where the vision encoder's patches lie, after all resizing, and which video token predicts which of them.

    Tokens follow each other by time, then row, then column, in every family that is supported (Qwen3-VL puts
    timestamps between the frames, which moves tokens apart but does not change their order). One token covers
    `merge` x `merge` patches in `temporal_patch` frames.

    Args:
        frames: F, frames after padding to a multiple of `temporal_patch`.
        rows: R, patch rows of one frame.
        cols: C, patch columns of one frame.
        patch: side of a patch in pixels of the resized frame.
        merge: m, patches per token along each side.
        temporal_patch: p, frames per token.

    Raises:
        ValueError: if a number is not positive, or F, R, C are not multiples of p, m, m.
    """

    frames: int
    rows: int
    cols: int
    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2

    def __post_init__(self) -> None:
        if min(self.frames, self.rows, self.cols, self.patch, self.merge, self.temporal_patch) < 1:
            raise ValueError(f"every number of a grid must be positive: {self}")
        if self.frames % self.temporal_patch or self.rows % self.merge or self.cols % self.merge:
            raise ValueError(f"frames, rows and cols must be multiples of temporal_patch, merge and merge: {self}")

    @classmethod
    def from_thw(cls, thw: "tuple[int, int, int]", patch: int, merge: int, temporal_patch: int) -> "VideoGrid":
        """Build the grid from one row of `video_grid_thw`: (temporal patches, patch rows, patch columns)."""
        frames, rows, cols = (int(number) for number in thw)
        return cls(frames * temporal_patch, rows, cols, patch, merge, temporal_patch)

    def unpadded(self, frames: int) -> "VideoGrid":
        """The same patches in a clip's own frames, one token each in time, without the frame that padding repeats."""
        return replace(self, frames=frames, temporal_patch=1)

    @classmethod
    def for_size(cls, frames: int, height: int, width: int, patch: int = 14, merge: int = 2) -> "VideoGrid":
        """Build the grid of frames of some size, for no model in particular and without padding in time.

        Args:
            frames: number of frames.
            height: of a frame in pixels; both sides are rounded to whole tokens of `merge` patches.
            width: of a frame in pixels.
            patch: side of a patch in pixels.
            merge: patches per token along each side.
        """
        rows, cols = (max(1, round(side / (patch * merge))) * merge for side in (height, width))
        return cls(frames, rows, cols, patch, merge, temporal_patch=1)

    @property
    def height(self) -> int:
        """Height in pixels of the frame that the vision encoder sees."""
        return self.rows * self.patch

    @property
    def width(self) -> int:
        """Width in pixels of the frame that the vision encoder sees."""
        return self.cols * self.patch

    @property
    def num_tokens(self) -> int:
        """T, the number of video tokens."""
        return self.frames // self.temporal_patch * (self.rows // self.merge) * (self.cols // self.merge)

    @property
    def token_width(self) -> int:
        """D, the numbers that one token predicts: x and y for each of its patches."""
        return 2 * self.merge**2 * self.temporal_patch
