"""Motion questions as a data set: clips, exact motion beside them, and LLaMA-Factory's JSON."""

import functools
import hashlib
import json
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from motiontune.datasets.dataset_info import claim_dataset, make_sample, names_in, write_dataset
from motiontune.datasets.encoding import ENCODERS, encode
from motiontune.datasets.questions.backgrounds import (
    PATTERNS,
    UNSEEN_SHARE,
    draw_patterns,
    find_behind,
    find_photos,
    frames_behind,
    read_photos,
)
from motiontune.datasets.questions.noise import make_noise
from motiontune.datasets.questions.stage import Stage
from motiontune.datasets.questions.tasks import CAMERAS, SPLITS, TASKS, Question, World, make_scripts
from motiontune.errors import ConfigError, OutputError
from motiontune.files import write_text, write_whole
from motiontune.limits import PIXELS, ROWS, read_json
from motiontune.motion.field import Direction
from motiontune.tables import text_table
from motiontune.video.container import content_of


VERSION = 1
"""Of the clips: raised with each change that makes other ones of the same seed."""
CELL = 4
"""Side in pixels of what has a vector of its own in the motion files."""
CHUNK = 8  # clips that are drawn together, of which each answer has as many
PREFIX = "motion_questions"


@dataclass(frozen=True)
class Wanted:
    """What is to be written.

    Args:
        out: the `dataset_dir`.
        seed: of everything.
        count: clips of each split, in equal parts of its tasks.
        splits: of SPLITS.
        tasks: of TASKS.
        cameras: of CAMERAS.
        size: side of the frames in pixels, a multiple of 4.
        frames: of a clip.
        fps: frames per second.
        speeds: of the frame's side per frame, from and to.
        codec: of ENCODERS.
        direction: of the motion files.
        photos: folder of photos; None: those of installed packages.
        backgrounds: folder of videos and photos for the split "real_backgrounds".

    Raises:
        ConfigError: on what does not fit, naming the option.
    """

    out: Path
    seed: int = 0
    count: int = 1000
    splits: tuple[str, ...] = SPLITS[:5]
    tasks: tuple[str, ...] = TASKS
    cameras: tuple[str, ...] = CAMERAS
    size: int = 224
    frames: int = 16
    fps: int = 8
    speeds: tuple[float, float] = (0.02, 0.05)
    codec: str = "libx264"
    direction: Direction = "past"
    photos: Path | None = None
    backgrounds: Path | None = None

    def __post_init__(self) -> None:
        for name, known in (("splits", SPLITS), ("tasks", TASKS), ("cameras", CAMERAS)):
            given = getattr(self, name)
            if unknown := sorted(set(given) - set(known)):
                raise ConfigError(f"--{name}: {', '.join(unknown)}: choose some of {', '.join(known)}")
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"--{name}: give at least one, and none twice")
        if self.codec not in ENCODERS:
            raise ConfigError(f"--codec must be one of {', '.join(ENCODERS)}, not {self.codec!r}")
        if self.size < 56 or self.size % CELL:
            raise ConfigError(f"--size must be a multiple of {CELL} and at least 56, not {self.size}")
        if self.frames < 4 or self.frames % 2:
            raise ConfigError(f"--frames must be even and at least 4, not {self.frames}")
        if self.count < 1 or self.fps < 1:
            raise ConfigError(f"--count and --fps must be at least 1, not {self.count} and {self.fps}")
        if self.fps > 1000:
            raise ConfigError(f"--fps must be at most 1,000, not {self.fps}")
        if reason := PIXELS.excess(self.size**2, f"--size {self.size}: a frame"):
            raise ConfigError(reason)
        if reason := ROWS.excess(self.count, f"--count {self.count}: a split"):
            raise ConfigError(reason)
        if "real_backgrounds" in self.splits and self.backgrounds is None:
            raise ConfigError("--splits real_backgrounds needs --backgrounds DIR, a folder of videos or photos")
        if "real_backgrounds" not in self.splits and self.backgrounds is not None:
            raise ConfigError("--backgrounds is for the split real_backgrounds: name it in --splits, too")
        for split in self.splits:
            if not self.tasks_of(split):
                raise ConfigError(
                    f"--tasks: none of {', '.join(self.tasks)} is asked in the split {split} with {self.codec}"
                )

    def plan(self) -> str:
        """A line about what will be made."""
        size, total = f"{self.size}x{self.size} px, {self.frames} frames", self.count * len(self.splits)
        return (
            f"Making {total:,} clips ({size}) in {self.out.absolute()}: {self.count:,} of each split, "
            f"{', '.join(self.splits)} (--splits takes some of them alone)"
        )

    def tasks_of(self, split: str) -> tuple[str, ...]:
        """The tasks of a split.

        A figure of noise has no other objects, and no background but noise. Encoders other than libx264 leave a trace
        of it in single frames.
        """
        noise = self.codec == "libx264" and split not in ("ood_objects", "real_backgrounds")
        return tuple(task for task in self.tasks if task != "noise_figure" or noise)


@dataclass(frozen=True)
class Job:
    """One chunk of clips: which task of which split, and under which names."""

    wanted: Wanted
    split: str
    task: str
    chunk: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class SplitWritten:
    """What was written of a split.

    Args:
        split: of SPLITS.
        dataset: name in `dataset_info.json`.
        tasks: clips of each task.
        digest: of all frames before encoding, their motion and texts; the same on one machine means the same data.
    """

    split: str
    dataset: str
    tasks: dict[str, int]
    digest: str


@dataclass(frozen=True)
class QuestionsReport:
    """What `prepare_questions` did.

    Args:
        wanted: what was asked for.
        splits: in their order.
        photos: how many photos there were, in training and kept from it.
    """

    wanted: Wanted
    splits: tuple[SplitWritten, ...]
    photos: tuple[int, int]

    def table(self) -> str:
        """Return one line per split: clips, tasks and digest."""
        rows: list[tuple[str, ...]] = [("split", "clips", "tasks", "digest")]
        for split in self.splits:
            rows.append((split.split, f"{sum(split.tasks.values()):,}", str(len(split.tasks)), split.digest))
        return text_table(rows, "<>>", least=(16, 8, 6))

    def yaml(self) -> str:
        """Return the lines for a training YAML."""
        wanted = self.wanted
        names = {split.split: split.dataset for split in self.splits}
        lines = [f"dataset_dir: {wanted.out.absolute()}"]
        if "train" in names:
            lines.append(f"dataset: {names.pop('train')}")
        if names:
            lines.append(f"eval_dataset: {','.join(names.values())}")
        lines += [f"video_fps: {wanted.fps}.0", f"video_maxlen: {wanted.frames}"]
        lines += ["train_on_video_tokens: true", "use_motionvector_crossentropy_loss: true", "motion_source: file"]
        if wanted.direction != "past":
            lines.append(f"motion_direction: {wanted.direction}")
        return "\n".join(lines)


def prepare_questions(wanted: Wanted, workers: int | None = None, progress: bool = False) -> QuestionsReport:
    """Write one LLaMA-Factory data set per split, `motion_questions_<split>`.

    Clips lie in a folder of the data set's name, each with its exact motion beside it as `motion_source: file` reads
    it, and `<name>.about.json` tells what they were made of. A clip depends on the seed, the split, its task and its
    number in it alone.

    Args:
        wanted: what to write.
        workers: processes; one per CPU core where not given.
        progress: show a bar on stderr.

    Raises:
        ConfigError: if there are no photos for a split, or files cannot be read.
        OutputError: if other files are in the way.
    """
    _, seen, unseen = _grounds(wanted.photos)
    if "ood_photos" in wanted.splits and not unseen:
        raise ConfigError("--splits ood_photos needs two photos or more: give --photos DIR")
    inputs = find_photos(wanted.photos)
    if wanted.backgrounds is not None:
        inputs += find_behind(wanted.backgrounds)
    jobs = {split: list(_jobs(wanted, split)) for split in wanted.splits}
    for split, some in jobs.items():
        files = [wanted.out / name for job in some for name in _files(job)]
        files.append(wanted.out / f"{_dataset_of(split)}.about.json")
        claim_dataset(wanted.out, _dataset_of(split), files, inputs=inputs)
        _check_earlier(wanted, split, dict(Counter(job.task for job in some for _ in job.names)))
    total = sum(len(job.names) for some in jobs.values() for job in some)
    written = []
    with tqdm(total=total, unit="clip", disable=not progress) as bar, _Workers(workers or os.cpu_count() or 1) as run:
        for split, some in jobs.items():
            samples, digest = [], hashlib.blake2b(digest_size=16)
            for job, (rows, part) in zip(some, run(some), strict=True):
                samples += rows
                digest.update(part.encode())
                bar.update(len(job.names))
            samples = [samples[k] for k in np.random.default_rng(wanted.seed).permutation(len(samples))]
            counts = dict(Counter(sample["task"] for sample in samples))
            done = SplitWritten(split, _dataset_of(split), counts, digest.hexdigest())
            about = {"version": VERSION, "digest": done.digest, "tasks": counts} | _settings(wanted)
            about |= {"photos": [path.name for path in find_photos(wanted.photos)], "unseen_photos": unseen}
            write_dataset(wanted.out, done.dataset, samples)
            text = json.dumps(about, indent=1, default=str) + "\n"
            write_text(wanted.out / f"{done.dataset}.about.json", text)
            written.append(done)
    return QuestionsReport(wanted, tuple(written), (seen, unseen))


def _settings(wanted: Wanted) -> dict[str, Any]:
    return {k: v for k, v in asdict(wanted).items() if k not in ("out", "splits", "tasks")}


def _check_earlier(wanted: Wanted, split: str, counts: dict[str, int]) -> None:
    """Refuse to write over questions that were made otherwise: clips of both would lie there.

    Raises:
        OutputError: naming what differs.
    """
    file = wanted.out / f"{_dataset_of(split)}.about.json"
    if not file.exists():
        return  # or they were not made to the end
    earlier = read_json(file)
    now = json.loads(json.dumps(_settings(wanted) | {"tasks": counts}, default=str))
    del now["photos"], now["backgrounds"]  # the same ones may lie elsewhere now
    for key, value in now.items():
        if earlier.get(key) != value:
            raise OutputError(
                f"{wanted.out} has {_dataset_of(split)} of other settings ({key}: {earlier.get(key)}, not {value}): "
                f"remove that folder, or choose another --out"
            )


class _Workers:
    """Runs jobs in processes of their own, or in this one where one is enough; results come in the jobs' order."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(count, context, torch.set_num_threads, (1,)) if count > 1 else None

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def __call__(self, jobs: list[Job]) -> Iterator[tuple[list[dict[str, Any]], str]]:
        yield from self.pool.map(_write, jobs) if self.pool else map(_write, jobs)


def _dataset_of(split: str) -> str:
    return f"{PREFIX}_{split}"


def _jobs(wanted: Wanted, split: str) -> Iterator[Job]:
    tasks = wanted.tasks_of(split)
    for number, task in enumerate(tasks):
        count = wanted.count // len(tasks) + (number < wanted.count % len(tasks))
        for begin in range(0, count, CHUNK):
            names = tuple(f"{task}_{k:05d}" for k in range(begin, min(begin + CHUNK, count)))
            yield Job(wanted, split, task, begin // CHUNK, names)


def _files(job: Job) -> Iterator[str]:
    for name in job.names:
        yield f"{_dataset_of(job.split)}/{name}{ENCODERS[job.wanted.codec][0]}"
        yield f"{_dataset_of(job.split)}/{name}.npz"


def make_clips(
    job: Job, stages: tuple[Stage, Stage], world: World
) -> tuple[Tensor, NDArray[np.float32], NDArray[np.bool_], list[Question]]:
    """Draw a chunk of clips.

    Args:
        job: which.
        stages: one that draws frames, and one with a pixel for each cell of the motion.
        world: what there is.

    Returns:
        Frames uint8 [B, F, S, S, 3]; vectors float32 [B, F, N, N, 2] in cells, and which are valid; the questions.
    """
    wanted, step = job.wanted, -1 if job.wanted.direction == "past" else 1
    seed = 1_000_003 * wanted.seed + job.chunk
    if job.task == "noise_figure":
        frames, motions, questions = make_noise(CHUNK, job.split, world, seed, wanted.size // CELL)
        motion = motions[step == 1]
        frames = frames.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    else:
        script, questions = make_scripts(job.task, CHUNK, job.split, world, seed)
        behind, known = None, None
        if job.split == "real_backgrounds" and wanted.backgrounds is not None:
            files = find_behind(wanted.backgrounds)
            chosen = np.random.default_rng([wanted.seed, job.chunk, len(job.task)]).integers(len(files), size=CHUNK)
            made = [frames_behind(files[k], wanted.size, wanted.frames, wanted.fps) for k in chosen]
            behind, known = torch.from_numpy(np.stack([some for some, _ in made])), torch.tensor([s for _, s in made])
        frames = stages[0].draw(script, behind)
        motion = stages[1].motion(script, step, known)
    return frames, motion.vectors.numpy(), motion.seen.numpy(), questions


@functools.cache
def _grounds(folder: Path | None) -> tuple[Tensor, int, int]:
    """Backgrounds: photos of training, patterns, and photos kept from it; how many photos there are of both."""
    photos = read_photos(find_photos(folder))
    unseen = math.ceil(len(photos) * UNSEEN_SHARE) if len(photos) > 1 else 0
    seen = len(photos) - unseen
    return torch.cat([photos[:seen], draw_patterns(), photos[seen:]]), seen, unseen


def stages_of(wanted: Wanted) -> tuple[tuple[Stage, Stage], World]:
    """The stages that draw what is wanted, for frames and for motion, and what there is on them."""
    grounds, seen, unseen = _grounds(wanted.photos)
    world = World(wanted.frames, seen + PATTERNS, unseen, seen, wanted.speeds, wanted.cameras)
    return (Stage(grounds, wanted.size), Stage(grounds[:0], wanted.size // CELL)), world


_made: dict[Wanted, tuple[tuple[Stage, Stage], World]] = {}  # of this process


@torch.inference_mode()
def _write(job: Job) -> tuple[list[dict[str, Any]], str]:
    """Draw and write one chunk; return its samples, and a digest of all of it."""
    if job.wanted not in _made:
        _made[job.wanted] = stages_of(job.wanted)
    frames, vectors, valid, questions = make_clips(job, *_made[job.wanted])
    wanted, samples, digest = job.wanted, [], hashlib.blake2b(digest_size=16)
    for row, name in enumerate(job.names):
        question = questions[row]
        video = f"{_dataset_of(job.split)}/{name}{ENCODERS[wanted.codec][0]}"
        encode(wanted.out / video, frames[row].numpy(), wanted.fps, wanted.codec)
        _write_motion(wanted, wanted.out / video, vectors[row], valid[row])
        for part in (frames[row].numpy(), vectors[row], valid[row]):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(f"{question.text}\n{question.answer}".encode())
        columns: dict[str, Any] = {"id": f"{job.split}/{name}", "task": job.task}
        if question.options:
            columns["options"] = list(question.options)
        if question.template:
            columns["template"] = question.template
        samples.append(make_sample(video, question.text, question.answer, **columns))
    return samples, digest.hexdigest()


def _write_motion(wanted: Wanted, clip: Path, vectors: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Write a clip's motion as `motion_source: file` reads it; unlike `write_npz` in float16, without confidences."""
    with write_whole(clip.with_suffix(".npz")) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            vectors=vectors.astype(np.float16),
            valid=valid,
            times=np.arange(wanted.frames) / wanted.fps,
            direction=np.array(wanted.direction),
            clip=np.array(content_of(str(clip))),
        )


def names_of(words: Sequence[str] | None) -> tuple[str, ...]:
    """Names from the command line, with spaces or commas between them; none where none are given."""
    return tuple(name for part in words or () for name in names_in(part))
