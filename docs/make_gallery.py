"""Draw docs/gallery.md's pictures again: each source's motion in ten moments of real clips.

    make clips ARGS=--all
    python docs/make_gallery.py

Only clips whose licence lets their frames be shown are here; each is named on the page.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from motiontune.drawing.arrows import arrow_length, draw_arrows
from motiontune.drawing.text import write_texts
from motiontune.errors import MotiontuneError
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.video.reader import FrameReader


DOCS = Path(__file__).parent
CLIPS = DOCS.parent / "clips"
READER = FrameReader(fps=4.0)
SOURCES = ("codec", "blockmatch", "flow", "auto")
WIDTH, HEAD, EVERY = 360, 22, 2
QUALITY = 78

# the clip, and the second of it that is shown
MOMENTS = (
    ("bigbuckbunny.mp4", 0.8),
    ("bigbuckbunny.mp4", 2.6),
    ("bigbuckbunny.mp4", 4.4),
    ("cityCC0.mpg", 1.5),
    ("cityCC0.mpg", 6.0),
    ("box.mp4", 3.0),
    ("box.mp4", 8.0),
    ("box.mp4", 13.0),
    ("cup.mp4", 2.0),
    ("cup.mp4", 6.0),
)


def picture(name: str, second: float) -> np.ndarray:
    """One moment with the motion of every source side by side, arrows of one length: uint8 [h, w, 3]."""
    clip = READER.read(str(CLIPS / name), True)
    grid = READER.grid_of(clip).unpadded(len(clip.frames))
    frame = int(np.abs(clip.times - second).argmin())
    fields: dict[str, MotionField] = {}
    for source in SOURCES:
        try:
            fields[source] = motion_of(clip, grid, MotionOptions(source))
        except MotiontuneError as error:
            print(f"{name}, {source}: {error}", file=sys.stderr)
    shown = [(field.vectors[frame], field.valid[frame]) for field in fields.values()]
    length = arrow_length(*(np.stack(arrays) for arrays in zip(*shown, strict=True)), grid.patch * EVERY)
    still = Image.fromarray(clip.frames[frame]).resize((grid.width, grid.height))
    height = round(WIDTH * clip.info.height / clip.info.width) // 2 * 2
    cells = []
    for source in SOURCES:
        field, title = fields.get(source), f"{source}: no vectors"
        image = np.asarray(still)
        if field is not None:
            vectors, valid = field.vectors[frame], field.valid[frame]
            image = draw_arrows(image, vectors, valid, grid.patch, 2.0, every=EVERY, length=length)
            mean = np.linalg.norm(vectors[valid], axis=-1).mean() if valid.any() else 0
            title = f"{source if source == field.source else f'{source} ({field.source})'}, {mean:.1f} px"
            title += f", {1 - valid.mean():.0%} without"
        image = np.asarray(Image.fromarray(image).resize((WIDTH, height), Image.Resampling.LANCZOS))
        cells.append(np.concatenate([np.full((HEAD, WIDTH, 3), 24, np.uint8), image]))
        cells[-1] = write_texts(cells[-1], [(6, 3, title, 13, (220, 220, 220))])
    return np.concatenate(cells, axis=1)


def main() -> None:
    """Write all pictures."""
    for number, (name, second) in enumerate(MOMENTS, 1):
        (DOCS / f"gallery_{number:02d}.jpg").write_bytes(jpeg(picture(name, second)))


def jpeg(image: np.ndarray) -> bytes:
    """Encode as JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    main()
