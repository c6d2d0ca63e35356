"""The notebooks as an outline: which file belongs to which cell."""

from helpers import ROOT

from fedobp_lib.report.outline import outline, to_html
from fedobp_lib.report.reproduce import find_notebooks


def test_every_committed_file_belongs_to_a_notebook():
    names = {path.stem for path in (ROOT / "figures" / "quick").glob("*.csv")}
    chapters, left = outline(find_notebooks(), names)
    assert names and left == []
    numbers = {name: chapter.number for chapter in chapters for name in chapter.files}
    assert numbers["accuracy_before_pooled_best"] == "02"
    assert numbers["convergence_before_digits_0.1"] == "03"


def test_a_file_goes_to_the_cell_that_says_most_of_its_name(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    cells = [
        new_markdown_cell("# Title\n\nWhat $\\theta_i^{t}$ is."),
        new_code_cell('save(f"layers_{dataset}", P)'),
        new_markdown_cell("## Second"),
        new_code_cell('save("layers_stable", P); save(f"{a}", P)\nsave("layers", P)'),
    ]
    path = tmp_path / "07_name.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    names = ["layers", "layers_mnist", "layers_stable", "strange"]
    (chapter,), left = outline([path], names)
    assert (chapter.number, chapter.title) == ("07", "Title")
    assert [part.files for part in chapter.parts] == [
        ["layers_mnist"], ["layers_stable", "layers"],
    ]  # fmt: skip
    assert left == ["strange"]
    html = to_html(chapter.parts[0].text)
    assert html.strip() == "<p>What <i>θ<sub>i</sub><sup>t</sup></i> is.</p>"
