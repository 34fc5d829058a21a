"""What pyproject.toml has no place for: `examples/` is part of the package, so that `motiontune init` can write it."""

from setuptools import find_namespace_packages, find_packages, setup


FOLDERS = find_namespace_packages("examples", exclude=["*__pycache__*"])
EXAMPLES = ["motiontune.examples", *(f"motiontune.examples.{folder}" for folder in FOLDERS)]

setup(
    packages=[*find_packages("src"), *EXAMPLES],
    package_dir={"": "src", "motiontune.examples": "examples"},
    package_data={"motiontune": ["py.typed", "**/*.css", "**/*.js"]} | {folder: ["*"] for folder in EXAMPLES},
)
