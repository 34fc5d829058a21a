"""Does a long clip take more memory than a short one? The peak of one process each, from one minute to an hour.

    python benchmarks/long_clips/run.py

Each clip is the same ten seconds of H.264 (640x360, x264's defaults: B pictures, three references) again and again,
packets copied. Read are at most 16 or 128 frames (LLaMA-Factory's default) of at most 65,536 pixels, at 2 fps: where
they lie two seconds apart, vectors are followed no more, and the source is the pixels. `keep` is what reading with
`with_vectors=True` takes, which keeps all vectors.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from tqdm import tqdm


sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))

from loading import write_results

from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, vectors_for
from motiontune.video.reader import FrameReader


RESULTS = Path(__file__).parent / "results" / "cpu.json"
SIZE, RATE, SECONDS = (640, 360), 30, 10
MINUTES = (1, 2, 4, 5, 10, 30, 60)
# name: (source, most frames)
READINGS = {
    "16 frames, blockmatch": ("blockmatch", 16),
    "16 frames, auto": ("auto", 16),
    "128 frames, blockmatch": ("blockmatch", 128),
    "128 frames, auto": ("auto", 128),
    "128 frames, keep": ("auto", 128),
}


def make_loop(path: Path) -> Path:
    """Encode ten seconds in which a small thing goes round before a still picture."""
    coarse = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(SECONDS * RATE):
            angle, image = 2 * np.pi * number / (SECONDS * RATE), picture.copy()
            left, top = round(280 + 200 * np.cos(angle)), round(150 + 100 * np.sin(angle))
            image[top : top + 64, left : left + 64] = picture[:64, :64]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def repeated(loop: Path, path: Path, times: int) -> Path:
    """Copy a clip's packets to another file, again and again."""
    with av.open(str(loop)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for turn in range(times):
            for packet in packets:
                copy, later = av.Packet(bytes(packet)), round(turn * SECONDS / packet.time_base)
                copy.pts, copy.dts, copy.duration = packet.pts + later, packet.dts + later, packet.duration
                copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
                target.mux(copy)
    return path


def peak_mb() -> float:
    """The most memory that this process has held, from Linux."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this needs Linux's /proc")


def read(path: str, name: str) -> dict[str, Any]:
    """Read a clip and its motion: the peak of memory, and what it took."""
    source, most = READINGS[name]
    reader, options = FrameReader(max_frames=most), MotionOptions(source)
    start, processor = time.perf_counter(), time.process_time()
    clip = reader.read(path, True if name.endswith("keep") else vectors_for(options, reader.grid_of))
    field = motion_of(clip, reader.grid_of(clip), options)
    return {
        "peak_mb": round(peak_mb(), 1),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "frames": len(clip.frames),
        "source": field.source,
        "valid": round(field.valid_share, 3),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES)
    parser.add_argument("--readings", nargs="+", choices=READINGS, default=list(READINGS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--read", nargs=2, metavar=("CLIP", "READING"), help="one clip, in this process")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(*args.read)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        loop = make_loop(Path(folder, "loop.mp4"))
        read(str(loop), "128 frames, auto")  # compiles once for all
        for minutes in tqdm(args.minutes, unit="clip"):
            clip = repeated(loop, Path(folder, f"{minutes}.mp4"), minutes * 60 // SECONDS)
            for name in args.readings:
                command = [sys.executable, __file__, "--read", str(clip), name]
                found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
                rows.append({"minutes": minutes, "reading": name, **found})
                print(rows[-1], flush=True)
            clip.unlink()
    write_results(args.out, {"clip": f"H.264, {SIZE[0]}x{SIZE[1]}, {RATE} fps"}, {"rows": rows})


if __name__ == "__main__":
    main()
