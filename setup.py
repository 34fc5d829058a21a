"""What pyproject.toml has no place for: `examples/` is part of the package, so that `motiontune init` can write it."""

from setuptools import find_packages, setup


setup(
    packages=[*find_packages("src"), "motiontune.examples"],
    package_dir={"": "src", "motiontune.examples": "examples"},
    package_data={
        "motiontune": ["py.typed", "**/*.css", "**/*.js"],
        "motiontune.examples": ["*.md", "*.yaml", "engines/*"],
    },
)
