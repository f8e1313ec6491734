"""Imports only point up: a room imports rooms of a smaller number, itself, or the package's root modules."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "instructgpt"

# architecture: the order of the rooms is the order of the recipe.
LEVEL = {
    "errors": 0,
    "text": 1,
    "model": 1,
    "maths": 1,
    "data": 2,
    "practice": 3,
    "runtime": 3,
    "generation": 4,
    "scoring": 4,
    "conversion": 5,
    "pretrain": 5,
    "sft": 5,
    "reward_model": 5,
    "rlhf": 5,
    "comparators": 6,
    "evaluation": 6,
    "doctor": 6,
    "explain": 6,
    "serving": 6,
    "labelling": 6,
    "beside": 6,
    "recipe": 6,
    "pipeline": 7,
    "config": 8,
    "cli": 9,
    "__main__": 10,
}
# What may be imported from anywhere below it although it is not above: the exception tree.
FREE = {"errors", "__init__"}
# A pipeline's file is read as a verb's settings are.
READ_SETTINGS = {("recipe", "config"), ("pipeline", "config")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that the room is in sight"
            names = [node.module or ""]
        found |= {n.split(".")[1] for n in names if n.startswith("instructgpt.")}
    return found


def violations() -> list[str]:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room == "__init__":
            continue
        assert room in LEVEL, f"{path} is in a room that the architecture does not know"
        for other in imported_rooms(ast.parse(path.read_text(encoding="utf-8"))) - FREE - {room}:
            if LEVEL[other] >= LEVEL[room] and (room, other) not in READ_SETTINGS:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    return wrong


def test_imports_point_up() -> None:
    assert violations() == []


def test_text_does_not_import_torch() -> None:
    for path in (PACKAGE / "text").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not any(name.split(".")[0] == "torch" for name in names), path


def test_no_rooms_without_a_purpose() -> None:
    nameless = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert [p for p in PACKAGE.rglob("*.py") if p.stem in nameless] == []
