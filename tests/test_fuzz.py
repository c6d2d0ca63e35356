"""A thousand argument lists and configurations: a valid run, or one clear line and exit code 2.

Nothing may end in a traceback, and what is refused leaves no file behind. Rounds take no time here,
as they do not train; what a round does with border values is asked in `test_border_values.py`.
"""

import contextlib
import io
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedobp_lib import RunConfig, UserError, grid, run, run_all
from fedobp_lib.cli import main
from fedobp_lib.errors import SweepFailed
from fedobp_lib.methods import METHODS
from fedobp_lib.runs import estimate
from fedobp_lib.runs.files import LEFTOVER
from fedobp_lib.runs.grids import read_grid
from fedobp_lib.runs.parameters import check_parameters
from fedobp_lib.simulation import Simulation
from fedobp_lib.training.evaluation import Scores

TINY = {"clients": 6, "participation": 0.5, "rounds": 2, "local_epochs": 1}


def examples(number):
    """Always the same ones; what fails is shown as it was drawn."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def step(simulation):
    """A round that trains nothing and measures nothing."""
    simulation.round += 1
    count = len(simulation.tested)
    scores = Scores(torch.ones(count), torch.ones(count).double(), torch.ones(count) * 2)
    simulation._record("before", "cohort", scores)
    simulation._record_layers(None)
    if simulation.round >= min(simulation.config.rounds, 3):
        simulation.round = simulation.config.rounds
        for stage in ("before", "after"):
            simulation._record(stage, "all", scores)
            simulation.final[stage] = scores


class Sandbox:
    """A project in a folder, with two finished runs; it says what has changed there."""

    def __init__(self, folder):
        self.folder = folder
        self._kept = folder.parent / "kept"
        shutil.copytree(folder / "runs", self._kept)
        self.before = self.content()

    def content(self):
        found = {}
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            found[name] = path.read_bytes() if path.is_file() else None
        return found

    def restore(self):
        """As it was; a new run is nothing that the next example should find."""
        for path in list(self.folder.iterdir()):
            if path.name not in ("notebooks", "fedobp_lib", "pyproject.toml", "file", "split.npz"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._kept, self.folder / "runs")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "project"
    folder.mkdir()
    for name in ("notebooks", "fedobp_lib"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "pyproject.toml").touch()
    (folder / "file").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RUNS", "FIGURES", "DATA", "EXECUTED"):
            patch.setenv(f"FEDOBP_{name}", str(folder / name.lower()))
        patch.chdir(folder)
        for method in ("fedobp", "majority-class"):
            run(RunConfig(**TINY, method=method), progress=False)

        def no_network(name, *arguments, **options):
            raise UserError(f"no network for {name}")

        patch.setattr("fedobp_lib.data.datasets.fetch", no_network)
        patch.setattr("fedobp_lib.data.download.fetch", no_network)
        patch.setattr("fedobp_lib.data.partition.MAX_DRAWS", 5)
        patch.setattr(estimate, "measure", lambda *a: estimate.Rate(1e-3, 1e-3))
        patch.setattr(Simulation, "step", step)
        yield Sandbox(folder)


def check_command(sandbox, arguments):
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    told, after = err.getvalue(), sandbox.content()
    try:
        assert code in (0, 1, 2)
        assert "Traceback" not in told
        if code == 2:
            assert out.getvalue() == "" and after == sandbox.before
            *before, last = told.splitlines()
            assert last.startswith("fedobp: ") and told.endswith("\n")
            assert all(line.startswith(("device: ", "this CPU")) for line in before)
        elif "--json" in arguments and out.getvalue().startswith(("{", "[")):
            json.loads(out.getvalue(), parse_constant=pytest.fail)
        assert not [name for name in after if LEFTOVER.fullmatch(Path(name).name)]
    finally:
        if after != sandbox.before:
            sandbox.restore()


NUMBERS = [
    "0", "1", "2", "3", "-1", "-0", "0.5", "0.1", "1.0", "1e-9", "5e-324", "1e308", "1e400",
    "nan", "inf", "-inf", "9" * 30, str(2**63), "2.5", "1_0", "٣", "0x10", "1e2",
]  # fmt: skip
WORDS = [
    "", " ", "fedobp", "fedavg", "FedOBP", "majority-class", "local-only", "digits", "mnist",
    "minst", "avgcnn", "resnet18", "text", "released", "fp32", "tf32", "bf16", "auto", "never",
    "always", "data", "benchmark", "cpu", "cuda", "cuda:99", "meta", "loop", "batched", "smoke",
    "quick", "paper", "logged", "ours", "obp", "fisher", "done", "partial", "None", "true", "ü",
    "日本", "a\nb", "x" * 300, "--", "-", "/proc/x", "a/b", "[", "*", "%s", "{x}",
    "quantile=0.5", "quantile=", "=1", "quantile=nan", "ema=1", "endpoints=0", "mu=1",
    "alpha=2", "a=b=c", "select=knee", "select=count", "count=7", "count=-1", "held_out=0.5",
    "merge=soft", "among=biases", "score=taylor", "score=random",
    "file", "split.npz", "grid.toml", "~nosuch/x", "runs", "none/x", "file/x",
    "1/1", "2/3", "0/0", "0", "98", "00", "02", "9",
]  # fmt: skip
# No slash: as root, a run could be kept anywhere.
TEXT = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=4)
VALUE = st.sampled_from([*NUMBERS, *WORDS]) | TEXT
# What often is right, so that runs are computed.
GOOD = {
    "--method": ["fedobp", "fedavg", "majority-class", "apfl", "fedspa", "pfedfda", "floco"],
    "--dataset": ["digits"], "--model": ["avgcnn"], "--alpha": ["0.1", "1", "100"],
    "--clients": ["2", "6"], "--participation": ["0.5", "1"], "--rounds": ["1", "2"],
    "--local-epochs": ["1", "2"], "--batch-size": ["1", "32", "100000"],
    "--lr": ["0.01", "1e-9"], "--momentum": ["0", "0.9"], "--precision": ["fp32", "auto"],
    "--seed": ["0", "1", "9" * 30], "--protocol": ["text", "released"],
    "--test-share": ["0.25", "0.5"], "--min-samples": ["2", "10"],
    "--pixels": ["data", "benchmark"],
    "--partition": ["none.npz"], "--partition-seed": ["0", "7"], "--eval-every": ["1", "1000"],
    "--eval-after": ["final", "never"], "--runs-dir": ["other", "runs"],
    "--set": ["quantile=0.9", "score=obp", "score=random", "select=knee", "select=held_out",
              "merge=soft", "among=classifier"], "--device": ["cpu", "auto"],
    "--bank": ["auto", "host", "disk"], "--aggregator": ["mean", "median", "trimmed:0.1"],
    "--byzantine": ["none", "sign_flip:0.2", "label_flip:0.3"], "--delays": ["0", "1", "3"],
}  # fmt: skip
RUN = [*GOOD, "--quantile", "--score", "--backend", "--json", "--pretrained"]
GRID = ["--datasets", "--alphas", "--methods", "--seeds", "--rounds", "--preset"]
CHOSEN = ["--method", "--dataset", "--alpha", "--seed", "--state", "--runs-dir"]
COMMANDS = {
    "run": RUN,
    "sweep": [*RUN[:-5], "--file", "--table", "--figure", "--preset", "--workers", "--pack",
              "--shard", "--dry-run"],
    "reproduce --dry-run": [*GRID, "--table", "--figure", "--only", "--all", "--source",
                            "--device", "--bank"],
    "compare": [*GRID, "--table", "--with", "--csv"],
    "runs list": [*CHOSEN, "--json"], "runs show": ["--json", "--runs-dir"],
    "runs diff": ["--json", "--runs-dir"], "runs verify": [*CHOSEN, "--json"],
    "runs gc": ["--partial", "--dry-run", "--runs-dir"], "runs export": CHOSEN,
    "runs import": ["--runs-dir"], "report": ["--preset", "--output"],
    "data fetch": ["--force"], "data list": [], "methods": [],
}  # fmt: skip
FLAGS = {"--json", "--pretrained", "--all", "--csv", "--partial", "--dry-run", "--force"}
MANY = {"sweep", "reproduce --dry-run", "compare", "runs list", "runs verify", "runs export"}


@st.composite
def commands(draw):
    command = draw(
        st.sampled_from([*COMMANDS, "run", "run", "sweep", "sweep", "reproduce --dry-run"])
    )
    words = command.split()
    for name in draw(st.lists(st.sampled_from(COMMANDS[command] or ["--x"]), max_size=4)):
        good = GOOD.get(name)
        value = st.sampled_from(good) if good and draw(st.integers(0, 9)) < 9 else VALUE
        if draw(st.integers(0, 19)) == 0:
            name = name[: draw(st.integers(2, len(name)))]
        if name in FLAGS:
            words.append(name)
        elif draw(st.booleans()):
            words.append(f"{name}={draw(value)}")
        else:
            count = draw(st.integers(0, 3)) if command in MANY else 1
            words += [name, *(draw(value) for _ in range(count))]
    if command == "sweep" and draw(st.integers(0, 3)):
        words += ["--method", draw(st.sampled_from(GOOD["--method"]))]
    if command in ("run", "sweep") and draw(st.integers(0, 3)):
        words += ["--clients", "6", "--rounds", "2"]
    extra = 1 if command in ("runs show", "runs export", "runs import", "data fetch") else 0
    return words + draw(st.lists(VALUE, min_size=extra, max_size=2 if extra else 0))


@given(commands())
@examples(600)
def test_argument_lists(sandbox, arguments):
    check_command(sandbox, arguments)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.sampled_from([2**63, 10**30, -(10**30)])
    | st.floats()
    | VALUE
    | st.dates()
)
ANYTHING = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
)
VALID = {
    "dataset": st.just("digits"), "protocol": st.sampled_from(["text", "released"]),
    "pretrained": st.just(False), "partition": st.none(), "method": st.sampled_from([*METHODS]),
    "model": st.just("avgcnn"), "alpha": st.floats(0.1, 1e6), "clients": st.integers(1, 8),
    "participation": st.floats(0.01, 1), "rounds": st.integers(1, 3),
    "local_epochs": st.integers(1, 9), "batch_size": st.integers(1, 2**64),
    "lr": st.floats(1e-300, 1e300), "momentum": st.floats(0, 0.99),
    "precision": st.sampled_from(["fp32", "bf16", "auto"]), "seed": st.integers(0, 2**64),
    "test_share": st.floats(0.01, 0.99), "min_samples": st.integers(2, 20),
    "pixels": st.sampled_from(["data", "benchmark"]), "partition_seed": st.integers(0, 2**64),
    "eval_every": st.integers(1, 2**64), "eval_after": st.sampled_from(["final", "always",
    "never"]), "eval_cohort": st.integers(1, 2**64),
    "aggregator": st.sampled_from(["mean", "median", "trimmed:.2", "clipping", "clipping:1"]),
    "byzantine": st.sampled_from(["none", "noise:0.3:2", "label_flip:.2"]),
    "delays": st.integers(0, 100),
}  # fmt: skip


@st.composite
def fields(draw):
    """Fields of a run; most values can be used."""
    names = draw(st.lists(st.sampled_from(FIELDS), max_size=4, unique=True))
    wrong = draw(st.sampled_from(names)) if names and draw(st.integers(0, 2)) == 0 else None
    return {name: draw(ANYTHING if name == wrong else VALID[name]) for name in names}


@st.composite
def settings_of_methods(draw):
    """Mostly none, as few fit a method."""
    if draw(st.integers(0, 3)):
        return {}
    return draw(
        st.dictionaries(st.sampled_from([*SETTINGS, "quantil"]), SCALARS, max_size=2) | ANYTHING
    )


FIELDS = [name for name in RunConfig.__dataclass_fields__ if name != "settings"]
SETTINGS = sorted({n for method in METHODS.values() for n in method.Settings.__dataclass_fields__})


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)  # None is no TOML


@given(
    fields()
    | st.dictionaries(st.sampled_from([*FIELDS, "settings", "seeds", "a b"]), ANYTHING, max_size=4),
    settings_of_methods(),
    st.sampled_from(["", "", "", "", "", "]", "[settings]\n", "\x00", "method = 'fedobp'\n"]),
)
@examples(150)
def test_files_of_sweeps(sandbox, values, chosen, more):
    values = {"rounds": 2, "clients": 6, "method": "fedobp"} | values
    lines = [f"{json.dumps(name)} = {toml(value)}" for name, value in values.items()]
    if isinstance(chosen, dict) and "settings" not in values:
        lines += ["[settings]", *(f"{name} = {toml(value)}" for name, value in chosen.items())]
    path = sandbox.folder.parent / "grid.toml"
    path.write_text("\n".join(lines) + "\n" + more, encoding="utf-8")
    check_command(sandbox, ["sweep", "--file", str(path)])
    with contextlib.suppress(UserError):
        read_grid(path)


@given(
    fields(),
    settings_of_methods(),
)
@examples(150)
def test_configurations(sandbox, values, chosen):
    try:
        config = RunConfig(**({"clients": 6, "rounds": 2, "settings": chosen} | values))
        (result,) = run_all([config], "cpu", progress=False, workers=1)
    except (UserError, SweepFailed) as error:
        assert "\n" not in str(error)
        assert sandbox.content() == sandbox.before
    else:
        assert result.config == RunConfig(**vars(result.config)).resolved()
        sandbox.restore()


NAMES = ("PRESET", "DATASETS", "ALPHAS", "METHODS", "SEEDS", "ROUNDS", "DEVICE", "SOURCE")


@given(st.dictionaries(st.sampled_from([*NAMES, "RONDS"]), ANYTHING, max_size=3), st.booleans())
@examples(100)
def test_parameters_of_notebooks(sandbox, values, injected):
    cell = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    own = "PRESET = 'smoke'\n" + "\n".join(f"{name} = None" for name in NAMES[1:6])
    own += "\nDEVICE = 'cpu'\nSOURCE = 'ours'"
    cells = ["", own, f"# Parameters\n{cell}"] if injected else ["", f"{own}\n{cell}"]
    given_ = {name.lower(): value for name, value in values.items() if name in NAMES[:6]}
    for use in (lambda: check_parameters(cells), lambda: grid(**({"preset": "smoke"} | given_))):
        try:
            use()
        except UserError as error:
            assert "\n" not in str(error)
    sandbox.restore()
