"""The table of calls into RAPIDS and CuPy is what the source says, neither less nor more."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from tests.backends.gpu.contract_calls import ATTRIBUTES, FUNCTIONS, METHODS, PASSED_ON
from tests.backends.gpu.contract_source import Form, constants_read, functions_called, methods_called, own_names

TABLE = Path(__file__).with_name("contract_calls.py").name
BUILTIN = {
    name
    for kind in (
        list, dict, str, set, tuple, bytes, int, float, Path,
        collections.OrderedDict, collections.deque, collections.Counter,
    )
    for name in dir(kind)
}  # fmt: skip
# Methods of the standard library, NumPy, Arrow and Dask in the same files, and the library's modules.
ELSEWHERE = {
    "append_column", "choice", "column", "compute", "dirichlet", "drop_columns", "empty", "field", "fileno", "findall",
    "flush", "machine", "map", "map_blocks", "median", "monotonic", "normal", "python_version", "rename_columns",
    "replace_schema_metadata", "select", "standard_normal", "sub", "system", "TemporaryDirectory", "to_delayed",
    "to_numpy", "uniform", "validate", "which", "write_table",
}  # fmt: skip


def forms(rows: list[tuple[str, int, str]]) -> set[Form]:
    return {Form(name, n, tuple(sorted(keywords.split()))) for name, n, keywords in rows}


def test_every_function_that_is_called_is_in_the_table():
    found = functions_called()
    missing = [f"{form}  # {found[form]}" for form in sorted(found.keys() - forms(FUNCTIONS))]
    assert not missing, f"put into FUNCTIONS of {TABLE}:\n" + "\n".join(missing)


def test_the_table_has_no_function_that_is_not_called():
    stale = [str(form) for form in sorted(forms(FUNCTIONS) - functions_called().keys())]
    assert not stale, f"take out of FUNCTIONS of {TABLE}:\n" + "\n".join(stale)


def test_every_method_that_may_be_theirs_is_in_the_table():
    """A method of ours, of a builtin or of a library named here needs no line; one of their names needs all forms."""
    table = {Form(form.name.rsplit(".", 1)[1], form.n_positional, form.keywords) for form in forms(METHODS)}
    known = own_names() | BUILTIN | ELSEWHERE
    found = methods_called()
    missing = [f"{form}  # {found[form]}" for form in sorted(found) if form.name not in known and form not in table]
    assert not missing, f"put into METHODS of {TABLE}, after the name of the class:\n" + "\n".join(missing)


def test_the_table_has_no_method_that_is_not_called():
    called = {(form.name, form.n_positional, form.keywords) for form in methods_called()}
    stale = [
        str(form) for form in sorted(forms(METHODS))
        if (form.name.rsplit(".", 1)[1], form.n_positional, form.keywords) not in called
        and not form.name.endswith("__call__")
    ]  # fmt: skip
    assert not stale, f"take out of METHODS of {TABLE}:\n" + "\n".join(stale)


def test_every_attribute_that_is_read_is_in_the_table():
    found = constants_read()
    missing = [f'"{name}",  # {found[name]}' for name in sorted(found.keys() - set(ATTRIBUTES))]
    assert not missing, f"put into ATTRIBUTES of {TABLE}:\n" + "\n".join(missing)


def test_the_search_finds_calls_under_every_name_a_module_goes_by(tmp_path, monkeypatch):
    from tests.backends.gpu import contract_source

    (tmp_path / "code.py").write_text(
        "import cudf as frames\n"
        "from cupy.cuda import cufft as f\n"
        "import rmm.mr\n"
        "def work(xp, self):\n"
        "    from cuml.cluster import KMeans\n"
        "    plan, other = f.PlanNd, 1\n"
        "    frames.read_parquet(1, columns=2); KMeans(n_clusters=3); plan(1); xp.zeros(1, 2); self.runtime.xp.sum(1)\n"
        "    rmm.mr.get_current_device_resource(); xp.ones\n"
    )
    monkeypatch.setattr(contract_source, "PACKAGE", tmp_path)
    monkeypatch.setattr(contract_source, "BESIDE", ())
    assert {str(form) for form in functions_called()} == {
        '("cudf.read_parquet", 1, "columns"),',
        '("cuml.cluster.KMeans", 0, "n_clusters"),',
        '("cupy.cuda.cufft.PlanNd", 1, ""),',
        '("cupy.zeros", 2, ""),',
        '("cupy.sum", 1, ""),',
        '("rmm.mr.get_current_device_resource", 0, ""),',
    }
    assert set(constants_read()) == {"cupy.ones", "cupy.cuda.cufft.PlanNd"}


def test_arguments_that_cannot_be_read_off_are_refused(tmp_path, monkeypatch):
    from tests.backends.gpu import contract_source

    (tmp_path / "code.py").write_text("import cupy\ncupy.zeros(*shape)\n")
    monkeypatch.setattr(contract_source, "PACKAGE", tmp_path)
    monkeypatch.setattr(contract_source, "BESIDE", ())
    with pytest.raises(AssertionError, match="write it out"):
        functions_called()


def test_who_passes_arguments_on_is_called():
    assert set(PASSED_ON) <= {name for name, _, _ in FUNCTIONS}
