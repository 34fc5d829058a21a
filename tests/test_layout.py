"""The rules of the house: which room may know which, read from the imports themselves."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

import motiontune


SOURCE = Path(__file__).parent.parent / "src" / "motiontune"

# From below to above: a room imports its own modules and those of rooms before it.
ROOMS = [
    "errors",
    "compiled",
    "limits",
    "threads",
    "files",
    "tables",
    "terminal",
    "drawing",
    "grid",
    "video",
    "motion",
    "targets",
    "cache",
    "manifest",
    "datasets",
    "evaluation",
    "model",
    "runs",
    "training",
    "viewer",
    "llamafactory",
    "extraction",
    "commands",
    "cli",
    "__main__",
]
ONLY = {"drawing": {"errors", "files"}}  # takes arrays, and knows no noun of the others
# LLaMA-Factory is one wing that nobody else enters
KNOW_LLAMAFACTORY = {"llamafactory", "commands"}
FRONT_DOOR = {"motiontune", *(f"motiontune.{name}" for name in motiontune.__all__)}
FAMILY_NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
KNOW_FAMILIES = {"model/families.py", "llamafactory/plugin.py"}


def modules() -> dict[str, Path]:
    """Every module but the package's own front door, by its name below `motiontune`."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if name != "__init__":
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports(path: Path) -> frozenset[str]:
    """The full names of all that a file imports, within functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def own_imports(path: Path) -> set[str]:
    """The modules of motiontune that a file imports, by their names below `motiontune`."""
    known = modules()
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "motiontune":
            inner = ".".join(parts[1:])
            found.add(inner if inner in known else ".".join(parts[1:-1]))
    return found - {""}


def room_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", modules())
def test_a_room_knows_only_what_lies_below_it(module: str) -> None:
    room = room_of(module)
    assert room in ROOMS, f"{module} stands in no room that this test knows"
    allowed = ONLY.get(room, set(ROOMS[: ROOMS.index(room)])) | {room}
    wrong = sorted(name for name in own_imports(modules()[module]) if room_of(name) not in allowed)
    assert not wrong, f"{module} imports {', '.join(wrong)}, which lie above it"


def test_no_command_knows_another() -> None:
    commands = {name: path for name, path in modules().items() if room_of(name) == "commands"}
    shared = {"commands", "commands.options"}
    wrong = [
        f"{name} imports {other}"
        for name, path in commands.items()
        for other in own_imports(path)
        if room_of(other) == "commands" and other not in shared | {name}
    ]
    assert not wrong, wrong


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: own_imports(path) for name, path in modules().items()}
    finished: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in finished:
            return
        for other in sorted(graph.get(name, ())):
            if other != name:
                visit(other, [*trail, name])
        finished.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("module", [name for name in modules() if room_of(name) not in KNOW_LLAMAFACTORY])
def test_llamafactory_stays_in_its_wing(module: str) -> None:
    wrong = [name for name in imports(modules()[module]) if name.split(".")[0] == "llamafactory"]
    assert not wrong


@pytest.mark.parametrize("module", modules())
def test_nobody_comes_in_by_the_front_door(module: str) -> None:
    wrong = [name for name in imports(modules()[module]) if name in FRONT_DOOR]
    assert not wrong, "what users import may load LLaMA-Factory: import it from its own module"


def test_families_are_named_in_one_place() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place in KNOW_FAMILIES:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and any(name in node.value for name in FAMILY_NAMES)
            ):
                wrong.append(f"{place}:{node.lineno} {node.value}")
    assert not wrong, wrong


def scripts() -> list[Path]:
    root = SOURCE.parent.parent
    return sorted(
        path for folder in ("benchmarks", "examples", "docs", "tests") for path in (root / folder).rglob("*.py")
    )


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(SOURCE.parent.parent)))
def test_scripts_import_what_there_is(script: Path) -> None:
    """Scripts that no test runs are not forgotten when something moves."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.level or not str(node.module).startswith("motiontune"):
            continue
        module = importlib.import_module(str(node.module))
        for name in node.names:
            assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name
