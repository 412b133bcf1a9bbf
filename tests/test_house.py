"""The house's plan, read from its source: floors, faces, and what `import mdnjax` costs."""

import ast
import importlib
import importlib.metadata
import inspect
import pathlib
import subprocess
import sys

import pytest

import mdnjax

ROOT = pathlib.Path(mdnjax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Imports go down only: a room may import the rooms named beside it, itself, and the ground.
GROUND = {"_types", "_checks", "_files", "_batching", "_epochs", "_saturation", "_sums"}
MAY_IMPORT = {
    "mixtures": set(),
    "variational": {"mixtures"},
    "strokes": {"mixtures", "variational"},
    "nets": {"mixtures", "variational"},
    "datasets": {"mixtures", "variational", "strokes", "nets"},
    "training": {"mixtures", "variational", "strokes", "datasets"},
    "plotting": {"mixtures", "variational", "strokes", "nets", "datasets", "training"},
}
PURE = ("mixtures", "variational", "strokes")
EVERY_ROOM = sorted(p.parent.name for p in ROOT.glob("*/__init__.py"))


def imports(tree, file):
    """Every (absolute module, names) that a file imports, wherever the statement stands."""
    package = ["mdnjax", *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])]), [a.name for a in node.names]


def room_of(file):
    """The room a file stands in; None for the face, a ground file's own name for the ground."""
    first = file.relative_to(ROOT).parts[0]
    return None if first == "__init__.py" else first.removesuffix(".py")


def rooms_imported(file):
    for module, names in imports(ast.parse(file.read_text()), file):
        if module == "mdnjax":
            yield from names
        elif module.startswith("mdnjax."):
            yield module.split(".")[1]


def relative(file):
    return str(file.relative_to(ROOT))


def test_every_room_has_its_floor():
    assert set(EVERY_ROOM) <= set(MAY_IMPORT)
    assert {f.stem for f in ROOT.glob("*.py")} == {"__init__", *GROUND}


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_go_down_only(file):
    room = room_of(file)
    if room is None:  # the face looks at everything, lazily: see below
        return
    allowed = GROUND if room in GROUND else GROUND | {room} | MAY_IMPORT[room]
    assert set(rooms_imported(file)) <= allowed


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_what_no_file_imports(file):
    tree = ast.parse(file.read_text())
    for module, names in imports(tree, file):
        assert module != "__future__", "jaxtyping needs annotations that are evaluated"
        assert not f"{module}.".startswith("jax._src."), "jax._src is private"
        assert not (module == "jax" and "_src" in names), "jax._src is private"
        if room_of(file) in (*PURE, *GROUND):
            assert module.split(".")[0] not in ("flax", "optax"), "pure rooms know no network"
    private = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "_src"]
    assert not private


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_the_heavy_and_the_optional_are_imported_where_used(file):
    """At the top of a module, and not inside `if TYPE_CHECKING:`, none of the extras stands."""
    extras = {"matplotlib", "orbax", "tqdm", "HersheyFonts", "sklearn", "torch", "numpyro"}
    top = ast.Module(ast.parse(file.read_text()).body, [])
    top.body = [n for n in top.body if isinstance(n, ast.Import | ast.ImportFrom)]
    found = {module.split(".")[0] for module, _ in imports(top, file)}
    assert not found & extras


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_every_module_says_what_it_is(file):
    tree = ast.parse(file.read_text())
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?", "!", ":")), docstring.splitlines()[0]


@pytest.mark.parametrize("room", EVERY_ROOM)
def test_every_room_says_what_is_public(room):
    module = importlib.import_module(f"mdnjax.{room}")
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert not name.startswith("_")
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    assert set(module.__all__) <= set(dir(module))


def test_the_face_is_the_contract():
    assert sorted(mdnjax.__all__) == list(mdnjax.__all__)
    for name in mdnjax.__all__:
        assert getattr(mdnjax, name) is not None
    contract = """BernoulliHead GaussianHead GaussianMixture Head ProductHead bias cdf condition
        covariance crps dirichlet_log_prior energy_score interval log_cdf log_prob marginal mean
        mode modes most_probable nll nll_gradient pit quantile responsibilities sample temper
        variance"""
    assert set(contract.split()) <= set(mdnjax.__all__)
    mixtures = importlib.import_module("mdnjax.mixtures")
    for name in contract.split():
        assert getattr(mdnjax, name) is getattr(mixtures, name)
    assert set(mdnjax.__all__) <= set(dir(mdnjax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mdnjax.nothing


def loaded_by(statement):
    """The top-level names of all that a fresh interpreter has loaded after `statement`."""
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    return set(done.stdout.split())


def test_importing_mdnjax_imports_little():
    loaded = loaded_by(
        "import mdnjax; assert not any(m.startswith('mdnjax.') for m in sys.modules)"
    )
    heavy = {"flax", "optax", "orbax", "matplotlib", "chex", "tqdm", "scipy", "sklearn"}
    assert "mdnjax" in loaded
    assert not loaded & (heavy - loaded_by("import jax"))


def test_the_pure_rooms_load_neither_flax_nor_optax():
    rooms = [room for room in PURE if room in EVERY_ROOM]
    loaded = loaded_by("; ".join(f"import mdnjax.{room}" for room in rooms))
    assert not loaded & {"flax", "optax", "orbax", "matplotlib"}


def test_the_version_is_the_packages():
    assert mdnjax.__version__ == importlib.metadata.version("mdnjax")


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_is_unpickled(file):
    """Files of strokes come from anywhere; what runs one's code must not stand here at all."""
    source = file.read_text()
    for words in ("allow_pickle=True", "pickle.load(", "pickle.loads(", "pickle.Unpickler("):
        assert words not in source
    calls = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call))
    for call in calls:
        assert not any(
            word.arg == "allow_pickle" and getattr(word.value, "value", True) is not False
            for word in call.keywords
        )
