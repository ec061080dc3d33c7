"""The house rules: who imports whom, what is imported when, what is never written, and what documentation must keep true."""

import ast
import inspect
import os
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxalign"
MODULES = sorted(PACKAGE.rglob("*.py"))
TORCH = {"torch", "transformers", "torchax", "flax"}
HYDRA = {"hydra", "omegaconf"}
ROOMS = ("compute", "models", "sources", "store", "results", "runtime", "commands", "studies", "_plugins")

# Design, section 2. What a room or a module of the top level may import from the package, itself aside.
MAY_IMPORT = {
    "contracts": set(),
    "errors": set(),
    "compute": {"contracts", "errors"},
    "models": {"compute", "contracts", "errors"},
    "sources": {"compute", "contracts", "errors"},
    "store": {"contracts", "errors"},
    "results": {"contracts", "errors"},
    "runtime": {"compute", "models", "sources", "store", "results", "contracts", "errors"},
    "estimators": {"compute", "contracts", "errors", "results"},
    "api": {"compute", "contracts", "errors", "results"},
    "config": {"compute", "models", "sources", "contracts", "errors"},
    "studies": {"runtime", "results", "compute", "models", "sources", "contracts", "errors"},
    "commands": {"config", "runtime", "store", "models", "sources", "results", "studies", "contracts", "errors"},
    "_plugins": {"runtime", "config", "contracts", "errors"},
    "__main__": {"config", "commands"},
    "__init__": {"compute", "errors", "results", "estimators", "api"},
}

# Packages that only some rooms may import.
RESERVED = {
    "hydra": {"config", "commands", "_plugins", "__main__"},
    "omegaconf": {"config", "commands", "_plugins", "__main__"},
    **{package: {"models"} for package in TORCH},
    "mne": {"sources", "results"},
    "tensorstore": {"store", "sources"},
    "orbax": {"runtime"},
    "matplotlib": {"results"},
    "rich": {"commands"},
}


def names(path):
    return str(path.relative_to(PACKAGE))


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path):
    """Full names of everything a module imports, also inside functions and for type checking."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{names(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level_imports(path):
    """Packages imported when the module is, not inside functions nor under TYPE_CHECKING."""
    found = set()
    pending = list(tree_of(path).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


# Who imports whom.


OF_TORCH = ("models/bridge.py", "models/composite.py", "models/flax_vit.py", "models/parity.py")


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_imports_point_one_way(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is not in the house: add it to the design and to this table"
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("jaxalign.")}
    ours &= {*MAY_IMPORT, *ROOMS}  # `from jaxalign import __version__` is no room
    if path == PACKAGE / "__init__.py":
        assert "runtime" not in ours and "models" not in ours
    assert ours - {room} <= MAY_IMPORT[room], f"{names(path)} may not import {ours - {room} - MAY_IMPORT[room]}"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_packages_stay_in_their_rooms(path):
    packages = {name.split(".")[0] for name in imports_of(path)}
    for package, rooms in RESERVED.items():
        assert package not in packages or room_of(path) in rooms, f"{names(path)} imports {package}"


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "compute"], ids=names)
def test_compute_needs_jax_numpy_and_optax_only(path):
    packages = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
    assert packages <= {"jax", "numpy", "optax", "jaxalign"}
    unwanted = {"os", "pathlib", "logging", "time", "random", "json", "sys"}
    assert not unwanted & {name.split(".")[0] for name in imports_of(path)}, "no files, logs, clocks or devices"


@pytest.mark.parametrize(("path", "packages"), [("contracts.py", {"jax", "numpy"}), ("errors.py", set())])
def test_the_floor_of_the_house_is_thin(path, packages):
    found = {name.split(".")[0] for name in imports_of(PACKAGE / path)} - set(sys.stdlib_module_names)
    assert found <= packages


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_heavy_packages_are_imported_where_they_are_used(path):
    """torch, transformers and mne wait until a model or a recording is opened; matplotlib until something is drawn.

    scikit-learn's base classes are what estimators are made of. Modules whose classes are classes of torch import it at once,
    and are themselves imported where they are used.
    """
    drawing = {"drawing.py", "figures.py", "report.py"} if room_of(path) == "results" else set()
    waiting = {*TORCH, "mne", "sklearn", "skimage", "rich"} | (set() if path.name in drawing else {"matplotlib"})
    waiting -= {"sklearn"} if room_of(path) == "estimators" else set()
    is_of_torch = path.relative_to(PACKAGE).as_posix() in OF_TORCH
    waiting -= set(TORCH) if is_of_torch else set()
    modules = {f"jaxalign.{name.removesuffix('.py').replace('/', '.')}" for name in OF_TORCH}
    named = {
        f"{node.module}.{alias.name}"
        for node in tree_of(path).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } | {node.module for node in tree_of(path).body if isinstance(node, ast.ImportFrom)}
    assert is_of_torch or not named & modules
    assert not top_level_imports(path) & waiting


def test_no_rooms_import_each_other():
    """Between modules: no cycle of imports at module level, so that every file can be the first to be imported."""
    graph = {}
    for path in MODULES:
        module = ".".join(("jaxalign", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        wanted = set()
        for node in tree_of(path).body:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxalign"):
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[module] = wanted
    graph = {module: {one for one in wanted if one in graph and one != module} for module, wanted in graph.items()}
    packages = {module for module in graph if any(other.startswith(f"{module}.") for other in graph)}
    done, active = set(), []

    def visit(module):
        assert module not in active, f"imports go round: {' -> '.join([*active[active.index(module) :], module])}"
        if module in done:
            return
        active.append(module)
        for other in sorted(graph[module]):
            # A package's own modules may name the package's others, not the package itself.
            if not (other in packages and module.startswith(f"{other}.")):
                visit(other)
        active.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


# What is imported when.


def in_a_fresh_process(code, **environment):
    """Run code where nothing is imported yet; the platform named does not exist, so touching a device fails."""
    variables = {**os.environ, "JAX_PLATFORMS": "no_such_platform", "PYTHONPATH": str(PACKAGE.parent), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


HEAVY = sorted({*TORCH, *HYDRA, "mne", "sklearn", "scipy", "matplotlib", "rich", "tensorstore", "orbax"})


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import jaxalign", set()),
        ("import jaxalign.compute", {"scipy"}),
        ("import jaxalign; jaxalign.Ridge, jaxalign.Rsa, jaxalign.Correlation, jaxalign.compute.METRICS", {"scipy"}),
        ("import jaxalign.api, jaxalign; jaxalign.rdm, jaxalign.rsa", {"scipy"}),
        ("import jaxalign.results; jaxalign.results.load", {"scipy"}),
        ("import jaxalign.sources, jaxalign.models", {"scipy"}),
        ("import jaxalign.config", {"scipy", *HYDRA}),
        ("from jaxalign import commands; commands.main(['report', '/nowhere/x'])", {"scipy", "matplotlib", "mne"}),
    ],
)  # fmt: skip
def test_imports_are_light_and_touch_no_device(code, allowed):
    shown = f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    assert set(in_a_fresh_process(shown)) <= allowed


def test_import_jaxalign_alone_imports_nothing_but_itself():
    code = "import sys; before = set(sys.modules); import jaxalign; print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    assert set(in_a_fresh_process(code)) - set(sys.stdlib_module_names) == {"jaxalign"}


def test_the_check_of_devices_can_fail():
    with pytest.raises(AssertionError, match="no_such_platform"):
        in_a_fresh_process("import jax; jax.devices()")


def test_help_and_models_need_no_device():
    code = "import sys; from jaxalign import commands; sys.exit(commands.main(['help']) or commands.main(['models']))"
    assert "minilm" in in_a_fresh_process(code)


def test_public_names_are_there():
    import jaxalign

    for name in dir(jaxalign):
        assert getattr(jaxalign, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = jaxalign.nosuch


# What is never written.


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_no_file_can_bring_code(path):
    """No pickle in any guise, no remote code, no evaluation of strings."""
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not unsafe & {name.split(".")[0] for name in imports_of(path)}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"line {node.value.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            assert isinstance(node.value, ast.Constant) and node.value.value is True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            pytest.fail(f"line {node.lineno}: torch.load reads pickles")


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_only_one_file_names_a_mesh_axis(path):
    """No PartitionSpec, no axis name in a collective and no mesh is written outside runtime/mesh.py."""
    if path == PACKAGE / "runtime" / "mesh.py":
        return
    imported = {name.split(".")[-1] for name in imports_of(path)}
    assert not imported & {"PartitionSpec", "NamedSharding", "shard_map", "AxisType", "make_mesh", "P"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            assert called not in ("psum", "pmax", "pmin", "pmean", "all_gather", "axis_index", "shard_map", "pmap")
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            words = {one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)}
            assert not words & {"fit", "target"}, f"line {node.lineno} names a mesh axis"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_no_print_below_the_command_line(path):
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    if room_of(path) not in ("commands", "studies", "__main__"):
        assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


# Documentation.


def functions_of(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_every_module_says_in_one_line_what_it_is_about(path):
    doc = ast.get_docstring(tree_of(path))
    assert doc, "the first line of a file says what it is about"
    first = doc.splitlines()[0]
    assert first.endswith((".", ";", ":")) and len(first) <= 150


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_no_function_is_long(path):
    """60 lines without its docstring at most."""
    for node in functions_of(path):
        doc = node.body[0] if ast.get_docstring(node) is not None else None
        length = node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
        assert length <= 60, f"{node.name} has {length} lines"


def documented_arguments(doc):
    """Names under "Args:" of a docstring, and under "Attributes:"; several may share a line ("a, b: what")."""
    found = {}
    for title in ("Args", "Attributes"):
        section = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
        lines = section.group(1).splitlines() if section else []
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        entries = [line.strip() for line in lines if line.strip() and len(line) - len(line.lstrip()) == indent]
        found[title] = [
            name.strip() for entry in entries if ":" in entry for name in entry.split(":", 1)[0].split(",") if entry
        ]
    return found


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_documented_arguments_exist(path):
    """A docstring names only arguments that are there; in the pure core and the notebook face it names all or none."""
    for node in functions_of(path):
        documented = documented_arguments(ast.get_docstring(node) or "")["Args"]
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        real = {one.arg for one in every if one is not None} - {"self", "cls"}
        assert set(documented) <= real, f"{node.name} documents {set(documented) - real}, which are not its arguments"
        if documented and room_of(path) in ("compute", "api", "estimators", "sources", "models"):
            assert set(documented) == real, f"{node.name} does not document {real - set(documented)}"


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_documented_attributes_exist(path):
    """The Attributes of a class are its fields, class variables or properties."""
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ClassDef):
            continue
        documented = documented_arguments(ast.get_docstring(node) or "")["Attributes"]
        real = {
            one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        real |= {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
        init = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        real |= {
            target.attr
            for one in init
            for assign in ast.walk(one)
            if isinstance(assign, ast.Assign | ast.AnnAssign)
            for target in (assign.targets if isinstance(assign, ast.Assign) else [assign.target])
            if isinstance(target, ast.Attribute)
        }
        fitted = {name for name in documented if name.endswith("_")}  # attributes that a scikit-learn face sets in fit
        assert set(documented) - fitted <= real, f"{node.name} documents {set(documented) - real - fitted}"


def test_the_public_api_is_documented():
    import jaxalign

    for name in dir(jaxalign):
        thing = getattr(jaxalign, name)
        assert name == "__version__" or (thing.__doc__ and len(thing.__doc__.splitlines()[0]) > 20), name


def test_metrics_offer_the_protocol():
    """Every metric is frozen, hashable, and has the members that runtime asks for; its docstring names its source."""
    from jaxalign.compute import METRICS

    for kind in METRICS.values():
        metric = kind()
        assert hash(metric) == hash(kind()) and kind.__dataclass_params__.frozen
        assert metric.tail in ("greater", "two-sided") and metric.takes in ("responses", "patterns")
        assert isinstance(metric.uses_folds, bool) and metric.statistics and metric.n_permutations > 0
        for step in ("features_state", "responses_state", "score"):
            assert "design" in inspect.signature(getattr(kind, step)).parameters


def test_every_error_has_its_own_exit_code():
    errors = import_module("jaxalign.errors")
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.JaxalignError)
    ]
    assert sorted(kind.exit_code for kind in kinds) == [1, 2, 3, 4, 5, 75]
