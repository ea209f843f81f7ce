"""Rules of the source tree that no type checker knows. They read the code, they do not run it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    "chorus_proto": ROOT / "proto",
    "chorus_server": ROOT / "server",
    "chorus_client": ROOT / "client",
    "chorus_http": ROOT / "http_wrapper",
    "chorus_cli": ROOT / "cli",
}
MAY_IMPORT = {
    "chorus_proto": set[str](),
    "chorus_server": {"chorus_proto"},
    "chorus_client": {"chorus_proto"},
    "chorus_http": {"chorus_proto"},
    "chorus_cli": {"chorus_proto", "chorus_server", "chorus_client", "chorus_http"},
}
EDGES = {
    *("chorus_proto.convert_transfers", "chorus_server.transfer_streams", "chorus_client.transfer.calls"),
    *("chorus_proto.convert", "chorus_proto.convert_calls", "chorus_proto.convert_pc", "chorus_proto.convert_state"),
    *("chorus_proto.convert_backends", "chorus_proto.convert_keys", "chorus_proto.convert_queue"),
    "chorus_proto.convert_happenings",
    *("chorus_server.app", "chorus_server.node_service", "chorus_server.api_service", "chorus_server.link"),
    *("chorus_proto.convert_membership", "chorus_server.membership_service"),
    *("chorus_client.joining", "chorus_cli.membership"),
    "chorus_client.link",
    "chorus_http.grpc_cluster",
}
"""Where generated types may appear: translators, the two ends of each stream, and the app that registers services."""

LONG = 400
BANNED_NAMES = re.compile(r"(^|_)(utils?|helpers?|manager|misc|common|smart|data|info|v\d+)$")


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def source(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, filename=str(self.path))

    def imported(self) -> Iterator[str]:
        """Full names of what is imported, wherever the statement stands."""
        for node in ast.walk(self.tree):
            yield from self.imported_by(node)

    def imported_by(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + (self.path.name == "__init__.py")
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def modules() -> list[Module]:
    """Every module of the five packages that a person wrote."""
    found: list[Module] = []
    for package, root in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            if re.search(r"_pb2(_grpc)?\.py$", path.name):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


MODULES = modules()
each_module = pytest.mark.parametrize("module", MODULES, ids=[module.name for module in MODULES])


def test_all_five_packages_are_looked_at() -> None:
    assert {module.package for module in MODULES} == set(PACKAGES)
    assert {module.name for module in MODULES} >= EDGES


@each_module
def test_imports_run_one_way(module: Module) -> None:
    ours = {name.partition(".")[0] for name in module.imported()} & set(PACKAGES)
    assert ours - {module.package} <= MAY_IMPORT[module.package]


@each_module
def test_what_ships_imports_neither_tests_nor_tools(module: Module) -> None:
    assert not {name.partition(".")[0] for name in module.imported()} & {"tests", "bench", "tools", "pytest"}


@each_module
def test_generated_types_stay_at_the_edges(module: Module) -> None:
    generated = {name for name in module.imported() if re.search(r"_pb2(_grpc)?(\.|$)", name)}
    assert not generated or module.name in EDGES


def test_every_edge_on_the_list_is_one() -> None:
    idle = {module.name for module in MODULES if module.name in EDGES and "_pb2" not in module.source}
    assert not idle


def test_the_modules_of_a_package_do_not_import_each_other_in_circles() -> None:
    names = {module.name for module in MODULES}
    needs = {module.name: _needed_at_import(module, names) - {module.name} for module in MODULES}
    while True:
        free = {name for name, needed in needs.items() if not needed & set(needs)}
        if not free:
            break
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert not {name: needed & set(needs) for name, needed in needs.items()}


def _needed_at_import(module: Module, names: set[str]) -> set[str]:
    """What must be loaded first; an import inside a function or under TYPE_CHECKING is not."""
    top = [node for node in module.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    needed = {name for node in top for name in module.imported_by(node)} & names
    # `from package import module` needs the module, and of the package only that it exists.
    return {name for name in needed if not any(other.startswith(f"{name}.") for other in needed)}


@each_module
def test_a_module_says_what_it_is_and_a_long_one_why(module: Module) -> None:
    says = ast.get_docstring(module.tree) or ""
    lines = module.source.count("\n")
    assert says or not lines, "no docstring"
    assert lines <= LONG or re.search(r"\bbecause\b", says), f"{lines} lines and no reason in the docstring"


@each_module
def test_a_file_is_named_for_its_idea(module: Module) -> None:
    assert not BANNED_NAMES.search(module.path.stem)


@each_module
def test_catching_everything_has_its_reason_beside_it(module: Module) -> None:
    lines = module.source.splitlines()
    bare = [
        handler.lineno
        for handler in ast.walk(module.tree)
        if isinstance(handler, ast.ExceptHandler) and _catches_everything(handler.type) and not _raises(handler)
        if not any("#" in line for line in lines[handler.lineno - 1 : handler.body[0].lineno])
    ]
    assert not bare, f"lines {bare}"


def _catches_everything(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(one is None or (isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")) for one in kinds)


def _raises(handler: ast.ExceptHandler) -> bool:
    """Cleaning up and passing on swallows nothing."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@each_module
def test_a_suppression_gives_its_reason_on_the_line(module: Module) -> None:
    marks = re.compile(r"#\s*(?:noqa|pyright|type)\s*:\s*(?:ignore|[A-Z]+\d+)(?:\[[^\]]*\])?(?P<rest>.*)$")
    bare = [
        number
        for number, line in enumerate(module.source.splitlines(), 1)
        if (found := marks.search(line)) and len(found["rest"].strip(" -#")) < 10
    ]
    assert not bare, f"lines {bare}"


@each_module
def test_no_module_names_a_place_that_exists_on_one_machine_only(module: Module) -> None:
    assert not re.search(r"/work/|/tmp/|/home/\w|/root/|C:\\\\Users", module.source)
