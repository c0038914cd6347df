"""House rules as tests: import floors, sizes, banned spellings, sources, dead modules.

A check takes one parsed file and yields complaints, each with its line and the way to mend it.
Every check runs over the whole tree; test_tidy_can_fail shows that each of them can fail.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ("vmm/**/*.py", "scenarios/**/*.py", "tests/**/*.py", "benchmarks/**/*.py")
DOCUMENTS = ("*.md", "docs/**/*.md", "pyproject.toml", "uv.lock", "Makefile", ".ci/*")

# A package of vmm may import itself and every lower floor, neither upper floors nor siblings.
FLOOR = {
    "units": 0,
    "bits": 0,
    "errors": 0,
    "discovery": 1,
    "eras": 1,
    "engine": 1,
    "search": 2,
    "strategies": 2,
    "hw": 2,
    "mmu": 3,
    "vcpu": 4,
    "programs": 5,
    "components": 5,
    "features": 6,
    "machine": 7,
    "workload": 7,
    "monitors": 8,
    "bugs": 8,
    "scenario": 9,
    "report": 10,
    "matrix": 10,
    "cli": 11,
    "pytest_plugin": 11,
}
# These could be a library of their own: they know nothing of memory.
MEMORYLESS = ("engine", "search", "strategies")
MEMORY = ("units", "bits")

# Libraries that only these files of vmm may import.
_LOOPS = ("vmm/engine/hosts/loop.py", "vmm/pytest_plugin.py")
CONFINED = {
    "anyio": ("vmm/engine/hosts/loop.py",),
    "asyncio": _LOOPS,
    "trio": _LOOPS,
    "loguru": ("vmm/report/*", "vmm/cli/*", "vmm/pytest_plugin.py"),
    "numpy": ("vmm/search/*", "vmm/hw/walker*", "vmm/workload/*", "*bulk*"),
}

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
LINES_MAX = {"vmm/vcpu/run_loop.py": 199, "vmm/machine.py": 199}  # where gods grow

EXTENSIONS = (
    "vmm/bugs/*",
    "vmm/features/*",
    "vmm/monitors/*",
    "vmm/strategies/*",
)  # found by file name

Complaint = tuple[int, str]


@dataclass(frozen=True)
class Module:
    """One source file: its path below the root, with slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def name(self) -> str:
        """Dotted name; a package's own file has the package's name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """What relative imports start from."""
        return self.name if self.path.endswith("/__init__.py") else self.name.rpartition(".")[0]

    def is_in(self, *patterns: str) -> bool:
        return any(fnmatch(self.path, pattern) for pattern in patterns)

    @property
    def is_public(self) -> bool:
        return not Path(self.path).name.startswith("_")

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and dotted target of every import, wherever it stands.

        `from a import b` counts as a.b. import_module(f"a.{b}") counts as "a.", the whole folder.
        """
        found: list[tuple[int, str]] = []
        for node in self.nodes:
            match node:
                case ast.Import(names=names):
                    found += [(node.lineno, alias.name) for alias in names]
                case ast.ImportFrom(names=names):
                    base = self._base(node)
                    found += [(node.lineno, f"{base}.{alias.name}") for alias in names]
                case ast.Call(
                    func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                    args=[
                        ast.Constant(value=str(target))
                        | ast.JoinedStr(values=[ast.Constant(value=str(target)), *_]),
                        *_,
                    ],
                ):
                    found.append((node.lineno, target))
        return found

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        parts = parts[: len(parts) - node.level + 1]
        return ".".join([*parts, *filter(None, [node.module])])


# --- import floors ---


def _floor_of(target: str) -> str | None:
    """The second part of vmm.x.y; None for vmm itself and for other libraries."""
    head, *rest = target.split(".")
    return rest[0] if head == "vmm" and rest and rest[0] != "__version__" else None


def floors(module: Module) -> Iterator[Complaint]:
    """Imports inside vmm point down only."""
    own = _floor_of(module.name)
    if not module.is_in("vmm/*") or own in (None, "__main__"):
        return
    if own not in FLOOR:
        yield 1, f"vmm.{own} has no floor; give it one in FLOOR, as low as it can be"
        return
    for line, target in module.imports:
        other = _floor_of(target)
        if other is None or other == own:
            continue
        if other not in FLOOR:
            yield line, f"imports {target}, which has no floor; add vmm.{other} to FLOOR"
        elif FLOOR[other] >= FLOOR[own]:
            climb = f"from floor {FLOOR[own]} to floor {FLOOR[other]}"
            yield line, f"imports {target}, {climb}; move the shared part down, or pass it in"
        elif own in MEMORYLESS and other in MEMORY:
            yield line, f"imports {target}, but vmm.{own} knows nothing of memory; pass plain ints"


def confined_libraries(module: Module) -> Iterator[Complaint]:
    """Event loops, logging and arrays stay where they belong."""
    if not module.is_in("vmm/*"):
        return
    for line, target in module.imports:
        library = target.partition(".")[0]
        if library in CONFINED and not module.is_in(*CONFINED[library]):
            yield line, f"imports {library}; only {', '.join(CONFINED[library])} may"


def scenario_imports(module: Module) -> Iterator[Complaint]:
    """Scenarios look like a user's file: vmm.scenario and the standard library."""
    if not module.is_in("scenarios/*"):
        return
    for line, target in module.imports:
        if target.split(".")[:2] != ["vmm", "scenario"] and not _is_stdlib(target):
            yield line, f"imports {target}; take what is needed from vmm.scenario"


def _is_stdlib(target: str) -> bool:
    return target.partition(".")[0] in sys.stdlib_module_names


# --- sizes ---


def sizes(module: Module) -> Iterator[Complaint]:
    """Modules and functions stay readable; docstrings of functions do not count."""
    allowed = LINES_MAX.get(module.path, MODULE_LINES_MAX)
    if len(module.lines) > allowed:
        yield len(module.lines), f"{len(module.lines)} lines, {allowed} allowed; split the module"
    for node in module.nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = _lines_of(node)
        if ast.get_docstring(node) is not None:
            length -= _lines_of(node.body[0])
        if length > FUNCTION_LINES_MAX:
            grown = f"{node.name} has {length} lines, {FUNCTION_LINES_MAX} allowed"
            yield node.lineno, f"{grown}; name its steps"


def _lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


# --- banned spellings ---

ORDERED = ("vmm/engine/*", "vmm/mmu/*", "vmm/vcpu/*", "vmm/hw/*", "vmm/strategies/*")


@dataclass(frozen=True)
class Ban:
    """A spelling, as `_spellings` writes it, with the replacement and the places it holds for."""

    pattern: str
    instead: str
    where: tuple[str, ...] = ("vmm/*", "scenarios/*")
    unless: tuple[str, ...] = ()
    marker: str = ""  # a comment that excuses the line


BANNED_CODE = (
    Ban(r"id\(\)", "differs from run to run; compare with `is`, key by name"),
    Ban(r"random\.(?!Random$).+", "shares one hidden state; make a random.Random(seed)"),
    Ban(r"time\.time(_ns)?", "jumps; order by step number, measure with time.perf_counter"),
    Ban(
        r"print\(\)",
        "belongs to cli and report; everywhere else the trace is the log",
        unless=("vmm/cli/*", "vmm/report/*"),
    ),
    Ban(
        r"(frozen)?set\(\)|\{\.\.\.\}",
        "has no stable order; use dict.fromkeys or a tuple, or mark the line `# order-free`",
        where=ORDERED,
        marker="# order-free",
    ),
)


def banned_code(module: Module) -> Iterator[Complaint]:
    """Spellings that would make two runs of one seed differ."""
    bans = [
        ban for ban in BANNED_CODE if module.is_in(*ban.where) and not module.is_in(*ban.unless)
    ]
    if not bans:
        return
    for first, last, spelling in _spellings(module.tree):
        text = "\n".join(module.lines[first - 1 : last])
        for ban in bans:
            if re.fullmatch(ban.pattern, spelling) and not (ban.marker and ban.marker in text):
                yield first, f"`{spelling}` {ban.instead}"


def _spellings(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """First line, last line and a short form of calls, attributes, imports and sets."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)):
                short = [f"{name}()"]
            case ast.Attribute(value=ast.Name(id=base), attr=name):
                short = [f"{base}.{name}"]
            case ast.ImportFrom(module=str(base), names=names):
                short = [f"{base}.{alias.name}" for alias in names]
            case ast.Set() | ast.SetComp():
                short = ["{...}"]
            case _:
                continue
        yield from ((node.lineno, node.end_lineno or node.lineno, spelling) for spelling in short)


BANNED_TEXT = (
    (r"\bTODO\b", "a bare reminder; say what is not done yet, or write an issue"),
    (r"#\s*type:\s*ignore(?!\[)", "without a code; name it: ignore[code]"),
    (r"(?<![\w.)\]}*])/(work|root|home)(?![\w.-])", "a path of one machine; use a relative one"),
)


def banned_text(module: Module) -> Iterator[Complaint]:
    """Spellings found in any text, comments included."""
    for number, line in enumerate(module.lines, 1):
        for pattern, mend in BANNED_TEXT:
            if found := re.search(pattern, line):
                yield number, f"`{found[0]}` is {mend}"


# --- sources and docstrings ---


def sources(module: Module) -> Iterator[Complaint]:
    """Every extension says what it is and where it comes from."""
    if not module.is_public:
        return
    if module.is_in(*EXTENSIONS):
        value, wanted = "SPEC", ["title", "source"]
    elif module.is_in("scenarios/*"):
        value, wanted = "SCENARIO", ["source"]
    else:
        return
    texts = _keyword_texts(module, value)
    if texts is None:
        yield 1, f"has no {value} = ...(...) at its top level; underscore helpers need none"
        return
    for keyword in wanted:
        if not texts.get(keyword, "").strip():
            yield 1, f'{value} needs {keyword}="...", a string that is not empty'


def _keyword_texts(module: Module, value: str) -> dict[str, str] | None:
    """The string keywords of the call assigned to `value`; None if there is no such call."""
    for node in module.tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(keywords=keywords))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=keywords))
            ) if name == value:
                return {
                    keyword.arg: keyword.value.value
                    for keyword in keywords
                    if keyword.arg is not None
                    and isinstance(keyword.value, ast.Constant)
                    and isinstance(keyword.value.value, str)
                }
    return None


def docstrings(module: Module) -> Iterator[Complaint]:
    """A module says in its first line what it is for."""
    if module.is_in("vmm/*", "scenarios/*") and not (ast.get_docstring(module.tree) or "").strip():
        yield 1, "has no module docstring; one sentence is enough"


# --- dead modules ---


def dead_modules(modules: Iterable[Module], entries: Iterable[str]) -> Iterator[str]:
    """Modules of vmm that nothing imports, nothing discovers, and no entry point names."""
    modules = list(modules)
    alive = dict.fromkeys(entries)
    for module in modules:
        if module.is_in("vmm/*", "scenarios/*"):
            for _, target in module.imports:
                alive.update((name, None) for name in _prefixes(target) if name != module.name)
    for module in modules:
        if (
            module.is_in("vmm/*")
            and not module.is_in("*/__init__.py", "*/__main__.py")
            and not (module.is_public and module.is_in(*EXTENSIONS))
            and module.name not in alive
            and f"{module.name.rpartition('.')[0]}." not in alive
        ):
            yield f"{module.path}: nothing imports it; wire it in or delete it"


def _prefixes(target: str) -> Iterator[str]:
    """a.b.c imports a and a.b too."""
    parts = target.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def entry_points() -> list[str]:
    """The modules that the installed metadata names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    return [target.partition(":")[0] for group in groups for target in group.values()]


# --- the tree ---


@cache
def tree(*patterns: str) -> list[Module]:
    """The project's files that match; without patterns, all its Python."""
    return [
        Module(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))
        for pattern in patterns or PYTHON
        for file in sorted(ROOT.glob(pattern))
    ]


Check = Callable[[Module], Iterator[Complaint]]
CHECKS: list[Check] = [
    floors,
    confined_libraries,
    scenario_imports,
    sizes,
    banned_code,
    banned_text,
    sources,
    docstrings,
]


def test_tree_is_tidy() -> None:
    """One test for all checks: each process would parse the tree anew."""
    assert_none(
        f"{module.path}:{line}: {text}"
        for module in tree()
        for check in CHECKS
        for line, text in check(module)
    )


def test_documents_are_tidy() -> None:
    found = ((m.path, *found) for m in tree(*DOCUMENTS) for found in banned_text(m))
    assert_none(f"{path}:{line}: {text}" for path, line, text in found)


def test_no_module_is_dead() -> None:
    assert_none(dead_modules(tree(), entry_points()))


def assert_none(complaints: Iterable[str]) -> None:
    text = "\n".join(complaints)
    assert not text, f"\n{text}"


def test_floors_are_listed_lowest_first() -> None:
    assert all(lower <= upper <= lower + 1 for lower, upper in pairwise(FLOOR.values()))
    assert all(name in FLOOR for name in (*MEMORYLESS, *MEMORY))
