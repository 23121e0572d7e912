"""The rules of the source tree: import direction, light imports, sizes, the README's tree."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("align", "reward", "evals")
HEAVY = {"torch", "transformers", "datasets", "trl", "peft", "pandas", "matplotlib", "sklearn"}
LIGHT_MODULES = (
    "align",
    "align.errors",
    "align.config",
    "align.settings",
    "align.artifacts",
    "align.checkpoints",
    "align.progress",
    "align.team",
    "align.cli",
    "align.doctor",
)
# A module may import its own layer and those above it in this list. Modules of align that are not
# named here are what stages are made of (data, models): layer TOOLS.
LAYERS = (
    ("errors", "files", "complaints", "team"),
    ("config", "artifacts", "checkpoints", "progress", "settings", "callbacks"),
    (),
    ("pretrain", "sft", "ppo", "reward", "evals"),
    ("pipeline", "inputs", "stages", "preview", "judging", "evaluation", "audit", "scorer"),
    ("cli", "auditing", "__main__"),
)
TOOLS = 2
TRAINERS = ("align.pretrain", "align.sft", "align.ppo", "reward.train")


def sources(project: Path) -> list[Path]:
    return sorted(p for package in PACKAGES for p in (project / package).rglob("*.py"))


def runtime_imports(path: Path) -> Iterator[str]:
    """Dotted modules a file imports, leaving out those for type checkers only."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return visit(ast.parse(path.read_text(encoding="utf-8")))


def layer(module: str) -> int | None:
    """Index in LAYERS of a dotted module of ours; None for the package root and other projects."""
    parts = module.split(".")
    if parts[0] not in PACKAGES or parts == ["align"]:
        return None
    name = parts[1] if parts[0] == "align" else parts[0]
    return next((i for i, names in enumerate(LAYERS) if name in names), TOOLS)


def module_of(path: Path, project: Path) -> str:
    dotted = ".".join(path.relative_to(project).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def test_imports_point_one_way(project: Path) -> None:
    wrong = []
    for path in sources(project):
        importer = module_of(path, project)
        own = layer(importer)
        for imported in runtime_imports(path):
            other = layer(imported)
            if own is not None and other is not None and other > own:
                wrong.append(f"{importer} imports {imported}")
    assert wrong == []


def test_ppo_never_imports_reward_and_evals_no_trainer(project: Path) -> None:
    wrong = []
    for path in sources(project):
        importer = module_of(path, project)
        for imported in runtime_imports(path):
            to_reward = imported.split(".")[0] == "reward"
            if importer.startswith("align.ppo") and to_reward:
                wrong.append(f"{importer} imports {imported}")
            if importer.startswith("evals") and imported.startswith(TRAINERS):
                wrong.append(f"{importer} imports {imported}")
    assert wrong == []


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout))


def test_files_and_functions_stay_small(project: Path) -> None:
    wrong = []
    for path in sources(project):
        text = path.read_text(encoding="utf-8")
        length = text.count("\n")
        if length > 300:
            wrong.append(f"{path.relative_to(project)}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 80:
                    wrong.append(f"{path.relative_to(project)}: {node.name} has {lines} lines")
    assert wrong == []


def test_every_module_says_what_it_is_for(project: Path) -> None:
    silent = [p for p in sources(project) if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


def test_every_folder_of_sources_is_a_package(project: Path) -> None:
    bare = {p.parent for p in sources(project) if not (p.parent / "__init__.py").exists()}
    assert bare == set(), "an installed copy would lack them"


def test_readme_tree_names_every_source_file(project: Path) -> None:
    readme = project / "README.md"
    if not readme.exists():
        pytest.skip("no README yet")
    # The tree is the last code block; a folder's line ends with a slash, its files are indented.
    block = re.findall(r"```\w*\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)[-1]
    named = set(tree_paths(block))
    files = {p.relative_to(project).as_posix() for p in sources(project)}
    files = {name for name in files if not name.endswith("__init__.py")}
    assert files - named == set(), "missing from the README's tree"
    gone = {n for n in named if n.split("/")[0] in PACKAGES and not (project / n).exists()}
    assert gone == set(), "named by the README's tree but not there"


def tree_paths(block: str) -> Iterator[str]:
    """Paths of a tree, indented by spaces or drawn lines; names come first, then a gap."""
    stack: list[tuple[int, str]] = []
    block = re.sub("[│├└─]", " ", block)
    for line in filter(str.strip, block.splitlines()):
        depth = len(line) - len(line.lstrip())
        stack = [(d, name) for d, name in stack if d < depth]
        prefix = "".join(name for _, name in stack)
        names = re.split(r"\s{2,}|\s#", line.strip())[0].split()
        for name in names:
            yield prefix + name
        if names[-1].endswith("/"):
            stack.append((depth, names[-1]))


def test_the_tests_that_ppo_s_page_names_exist(project: Path) -> None:
    page = (project / "docs" / "ppo.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    written = {
        name
        for path in (project / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(re.findall(r"^\| \d+ \|", page, re.MULTILINE)) == 26
    assert sorted(named - written) == []
