"""Python code for processes of their own, in which some packages cannot be imported."""


def without(*packages: str) -> str:
    """Code after which importing one of the packages, or a module of theirs, fails as if it were not installed."""
    return f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
