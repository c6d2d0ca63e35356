"""Parameters that a notebook was given."""

import pytest

from fedobp_lib import UserError
from fedobp_lib.runs.parameters import check_parameters

OWN = 'PRESET = "quick"  # smoke, quick or paper\nROUNDS = None'


@pytest.mark.parametrize(
    "injected", [None, "# Parameters\nROUNDS = 2\n", '# Parameters\nPRESET = "paper"\nROUNDS = 2']
)
def test_known_parameters_pass(injected):
    check_parameters(["", OWN, *([injected] if injected else []), "check_parameters(In)"])
    check_parameters(["", OWN, "mine = 3", "N = 4", "check_parameters(In)"])  # somebody's own cells


def test_a_kernel_that_keeps_no_cells_passes():
    check_parameters([""])


@pytest.mark.parametrize("name", ["RONDS", "rounds"])
def test_unknown_parameters_are_refused(name):
    with pytest.raises(UserError, match=f"unknown parameter '{name}'; did you mean 'ROUNDS'"):
        check_parameters(["", OWN, f"# Parameters\nPRESET = 'smoke'\n{name} = 2\n", "later = 1"])
