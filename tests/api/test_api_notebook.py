"""docs/python.ipynb, run from its first cell to its last in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs/python.ipynb"


@pytest.mark.slow
def test_the_notebook_of_the_docs_runs(tiny_model: str, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # kept without outputs
    given = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(given) == 1
    given[0].source = f"MODEL = {tiny_model!r}"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    pages = [
        output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})
    ]
    shown = "\n".join(pages)
    told = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert "ipywidgets" not in told  # nobody is asked to install what is not needed
    progress = next(page for page in pages if page.startswith("<pre>"))
    assert "round 1   annotation" in progress  # one output, renewed in place, without its bar
    assert "<progress" not in progress
    for caption in ("plan", "run sort-words", "evaluation"):
        assert f"<caption>{caption}</caption>" in shown
    assert "finished: all rounds done" in shown
    assert (tmp_path / "atgen-runs/runs/sort-words/report.html").is_file()
