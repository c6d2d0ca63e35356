"""Parameters that a notebook was given."""

import nbformat
import pytest
from helpers import ROOT

from fedobp_lib import UserError
from fedobp_lib.paths import figures_dir
from fedobp_lib.runs.parameters import check_parameters

OWN = 'PRESET = "quick"  # smoke, quick or paper\nROUNDS = None'
ALL = OWN + (
    '\nDATASETS = None\nALPHAS = None\nMETHODS = None\nSEEDS = None\nDEVICE = "auto"\n'
    'SOURCE = "ours"'
)


@pytest.mark.parametrize(
    "injected", [None, "# Parameters\nROUNDS = 2\n", '# Parameters\nPRESET = "paper"\nROUNDS = 2']
)
def test_known_parameters_pass(injected):
    check_parameters(["", OWN, *([injected] if injected else []), "check_parameters(In)"])
    check_parameters(["", OWN, "mine = 3", "N = 4", "check_parameters(In)"])  # somebody's own cells
    check_parameters(["", OWN, "%matplotlib inline", "ROUNDS = some(call)", "check_parameters(In)"])


def test_a_kernel_that_keeps_no_cells_passes():
    check_parameters([""])


@pytest.mark.parametrize("name", ["RONDS", "rounds"])
def test_unknown_parameters_are_refused(name):
    with pytest.raises(UserError, match=f"unknown parameter '{name}'; did you mean 'ROUNDS'"):
        check_parameters(["", OWN, f"# Parameters\nPRESET = 'smoke'\n{name} = 2\n", "later = 1"])


MISSPELT = [
    ('PRESET = "quik"', "did you mean 'quick'"),
    ('SOURCE = "loged"', "did you mean 'logged'"),
    ('DATASETS = ["digits", "minst"]', "did you mean 'mnist'"),
    ("METHODS = \"['fedopb']\"", "did you mean 'fedobp'"),
    ('DEVICE = "gpu"', "not a device"),
    ("DEVICE = 3", "DEVICE must be of type str"),
    ('ALPHAS = ["x"]', "must be of type float"),
    ("SEEDS = []", "seeds: the list is empty"),
    ("ROUNDS = 0", "rounds must be at least 1"),
    ("PRESET = [1]", "preset must be of type str"),
]


@pytest.mark.parametrize("where", ["edited", "injected"])
@pytest.mark.parametrize(("line", "told"), MISSPELT)
def test_a_misspelt_value_is_refused(line, told, where):
    cells = [ALL, f"# Parameters\n{line}"] if where == "injected" else [f"{ALL}\n{line}"]
    with pytest.raises(UserError, match=told):
        check_parameters(["", *cells, "check_parameters(In)"])
    assert not figures_dir("quick").parent.exists()
    # Corrected in the same kernel, it passes.
    check_parameters(["", *cells, "check_parameters(In)", ALL, "check_parameters(In)"])


def test_a_folder_of_figures_that_cannot_be_written_is_told_first(disks, tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    disks.read_only(folder)
    with pytest.raises(UserError, match=r"cannot write to .*quick: Read-only file system"):
        check_parameters(["", ALL, "check_parameters(In)"])
    check_parameters(["", ALL.replace("ours", "logged"), "check_parameters(In)"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_every_notebook_checks_before_it_does_anything(path):
    _, second, *_ = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    lines = [line for line in second.source.splitlines() if line]
    imports = [line.startswith(("import ", "from ")) for line in lines]
    assert lines[imports.index(False)] == "check_parameters(In)"
