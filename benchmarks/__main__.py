"""``python -m benchmarks``: list the benchmarks, then run each of them without arguments."""

import importlib
import pkgutil
import sys
from types import ModuleType

import benchmarks

OUTCOMES = {0: "reached", 1: "missed", 2: "not run"}


def available() -> dict[str, ModuleType]:
    """Return the benchmarks by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return {
        name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "__main__"
    }


def main() -> int:
    """Run all benchmarks and return 1 if one of them missed what it claims, else 0."""
    modules = available()
    for name, module in modules.items():
        print(f"{name}: {(module.__doc__ or '').splitlines()[0]}")
    outcomes = {}
    for name, module in modules.items():
        print(f"\n== {name}", flush=True)
        outcomes[name] = module.main([])
    print()
    for name, status in outcomes.items():
        print(f"{name}: {OUTCOMES[status]}")
    return int(1 in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
