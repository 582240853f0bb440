"""The layers of rtx_lab/ARCHITECTURE.md, held by reading every import."""

import ast
from pathlib import Path

import rtx_lab

ROOT = Path(rtx_lab.__file__).parent
LEVELS = {
    "core": 0, "nn": 1, "data": 1, "scoring": 1, "optim": 1, "tracking": 1, "models": 2, "report": 2,
    "inference": 3, "tasks": 4, "loop": 5, "evaluate": 5, "preflight": 5, "reopen": 5, "pricing": 5, "pruning": 5,
    "parts": 6, "run": 7, "sweep": 8, "commands": 8, "__main__": 8,
}  # fmt: skip
HYDRA = {"run", "sweep", "core.schema"}
HEAVY = {
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "wandb",
    "matplotlib",
    "optuna",
    "ray",
    "tensorboard",
    "scipy",
}


def _modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, ast.parse(path.read_text())


def _imports(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_module_imports_lower_layers_or_its_own_package():
    seen = 0
    for name, tree in _modules():
        own = name.split(".")[0]
        for target in _imports(ast.walk(tree)):
            if target.startswith("rtx_lab.") and target.split(".")[1] in LEVELS:
                other = target.split(".")[1]
                assert LEVELS[other] < LEVELS[own] or (other == own), f"{name} imports {target}"
                seen += 1
    assert seen > 100


def test_loop_and_evaluate_import_core_alone():
    for name, tree in _modules():
        if name in ("loop", "evaluate"):
            ours = [t for t in _imports(ast.walk(tree)) if t.startswith("rtx_lab")]
            assert ours
            assert all(target.startswith("rtx_lab.core") for target in ours), name


def test_a_report_reads_run_directories_and_knows_nothing_else():
    own = ("rtx_lab.core.rundir", "rtx_lab.core.errors", "rtx_lab.core.labels")
    allowed = (*own, "rtx_lab.scoring", "rtx_lab.report")
    for name, tree in _modules():
        if name.split(".")[0] == "report":
            found = [*_imports(ast.walk(tree))]
            assert all(target.startswith(allowed) for target in found if target.startswith("rtx_lab")), name
            assert not {target.split(".")[0] for target in found} & {"torch", "hydra", "omegaconf"}, name


def test_hydra_stays_at_the_door():
    for name, tree in _modules():
        allowed = any(name == place or name.startswith(place + ".") for place in HYDRA)
        found = {t.split(".")[0] for t in _imports(ast.walk(tree))} & {"hydra", "omegaconf"}
        assert allowed or not found, f"{name} imports {found}"


def test_heavy_libraries_are_imported_where_they_are_used():
    for name, tree in _modules():
        found = {target.split(".")[0] for target in _imports(tree.body)} & HEAVY
        assert not found, f"{name} imports {found} at module level"


def test_no_class_of_ours_is_subclassed_by_ours():
    classes = {node.name for _, tree in _modules() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for name, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & classes, f"{name}.{node.name} extends {bases & classes}"
