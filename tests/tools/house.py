"""The house as text: every module with its lines, and what it imports of the library (python tests/tools/house.py)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_house import CORE, IMPORTS, LIBRARY, MODULES, dotted


def lines(path: Path) -> int:
    """Lines of a file, docstrings and markers included."""
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Print the core, then the wings, each in an order in which a module imports earlier ones only."""
    left, order = {name: set(others) - {name} for name, others in IMPORTS.items()}, []
    while left:
        ready = sorted(name for name, others in left.items() if not others & left.keys())
        order += ready
        for name in ready:
            del left[name]
    size = {dotted(path): lines(path) for path in MODULES}
    core = {dotted(path) for path in CORE}
    for title, names in (
        ("core", [n for n in order if n in core]),
        *((wing, [n for n in order if n.startswith(f"{wing}.")]) for wing in ("media", "fast", "make", "paper")),
    ):
        total = sum(size[name] for name in names) + (lines(LIBRARY / "__init__.py") if title == "core" else 0)
        print(f"{title}: {total} lines")
        for name in names:
            print(f"  {name:16} {size[name]:4}  {', '.join(sorted(set(IMPORTS[name])))}")


if __name__ == "__main__":
    main()
