"""Every call of the table fits what the installed RAPIDS and CuPy take. Needs the packages, and no GPU."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nomad_dask.backends.memory_model import LIBRARY_BYTES
from tests.backends.gpu.contract_calls import ATTRIBUTES, FUNCTIONS, METHODS, PASSED_ON

pytest.importorskip("cupy", reason="RAPIDS is not installed: make test-rapids")
pytest.importorskip("cuml", reason="RAPIDS is not installed: make test-rapids")

_TYPE = re.compile(r"^(?:[A-Za-z_][\w.]*\s+)+(?=[A-Za-z_]\w*\s*(?:=|$))")


def resolve(name: str) -> Any:
    """Return the object of a full name: modules by import, the rest by attribute."""
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part):
            importlib.import_module(".".join(parts[:i]))
        thing = getattr(thing, part)
    return thing


def signature_of(thing: Any) -> inspect.Signature | None:
    """Return the signature, of what Cython made from the first line of its text; None for NumPy's own types."""
    if isinstance(thing, type) and issubclass(thing, np.generic):
        return None
    try:
        return inspect.signature(thing)
    except ValueError:
        return signature_in(str(thing.__doc__).strip().split("\n")[0])


def signature_in(text: str) -> inspect.Signature:
    """Read ``f(int a, b=None, *, str c=1) -> type``."""
    found = re.match(r"[\w.]+\((.*?)\)(?:\s*->.*)?$", text.replace("\\*", "*"))
    assert found is not None, f"{text!r} is no signature"
    parameters, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for item in filter(None, (p.strip() for p in found[1].split(","))):
        if item in ("*", "/"):
            kind = inspect.Parameter.KEYWORD_ONLY if item == "*" else kind
            continue
        if item.startswith("*"):
            many = inspect.Parameter.VAR_KEYWORD if item.startswith("**") else inspect.Parameter.VAR_POSITIONAL
            parameters.append(inspect.Parameter(item.lstrip("*"), many))
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        name, _, default = _TYPE.sub("", item).partition("=")
        given = default if default else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name.strip(), kind, default=given))
    return inspect.Signature(parameters)


def check(name: str, thing: Any, n_positional: int, keywords: list[str]) -> None:
    signature = signature_of(thing)
    if signature is None:
        return
    bound = signature.bind(*[None] * n_positional, **dict.fromkeys(keywords))
    loose = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    unknown = list(bound.arguments.get(loose[0].name, {})) if loose else []
    if unknown:
        assert name in PASSED_ON, f"{name} swallows {unknown} unseen"
        taken = {parameter for to in PASSED_ON[name] for parameter in inspect.signature(resolve(to)).parameters}
        assert set(unknown) <= taken, f"{' and '.join(PASSED_ON[name])} know no {sorted(set(unknown) - taken)}"


@pytest.mark.parametrize(("name", "n_positional", "keywords"), FUNCTIONS, ids=lambda v: str(v).replace(" ", "-"))
def test_a_function_takes_what_it_is_given(name, n_positional, keywords):
    check(name, resolve(name), n_positional, keywords.split())


@pytest.mark.parametrize(("name", "n_positional", "keywords"), METHODS, ids=lambda v: str(v).replace(" ", "-"))
def test_a_method_takes_what_it_is_given(name, n_positional, keywords):
    # One more by position: the object itself.
    check(name, resolve(name), n_positional + 1, keywords.split())


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_there(name):
    resolve(name)


@pytest.mark.parametrize(
    ("name", "n_positional", "keywords", "message"),
    [
        ("cupy.zeros", 1, "dtyp", "dtyp"),
        ("cupy.RawModule", 0, "source", "source"),
        ("cupy.cuda.cufft.PlanNd", 3, "", "missing"),
        ("cupy_backends.cuda.libs.cublas.gemmEx", 20, "", "too many positional"),
        ("cuml.cluster.KMeans", 0, "n_cluster", "n_cluster"),
        ("rmm.mr.get_current_device_resource", 1, "", "too many positional"),
        ("dask_cuda.LocalCUDACluster", 0, "jit_unspill rmm_pool", "jit_unspill"),
    ],
)
def test_what_does_not_fit_is_told(name, n_positional, keywords, message):
    with pytest.raises((TypeError, AssertionError), match=message):
        check(name, resolve(name), n_positional, keywords.split())


def test_signatures_of_cython_are_read():
    read = signature_in("RawModule(str code=None, *, size_t n, unsigned int m=2, **kwargs) -> intptr_t")
    kinds = inspect.Parameter
    assert [(p.name, p.kind, p.default) for p in read.parameters.values()] == [
        ("code", kinds.POSITIONAL_OR_KEYWORD, "None"),
        ("n", kinds.KEYWORD_ONLY, kinds.empty),
        ("m", kinds.KEYWORD_ONLY, "2"),
        ("kwargs", kinds.VAR_KEYWORD, kinds.empty),
    ]


def test_cupy_adds_the_options_with_which_the_kernels_are_compiled_in_the_tests(monkeypatch):
    from cupy.cuda import compiler

    from tests.helpers.cubins import CUPY_OPTIONS

    given = []

    class Program:
        def __init__(self, source: Any, *more: Any, **options: Any) -> None:
            self._is_ours = source == "a kernel"

        def compile(self, options: tuple[str, ...], *more: Any) -> tuple[bytes, None]:
            if self._is_ours:
                given.extend(options)
                raise KeyboardInterrupt
            return b"", None

    monkeypatch.setattr(compiler, "_NVRTCProgram", Program)
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch: ("-arch=sm_90", "cubin"))
    with pytest.raises(KeyboardInterrupt):
        compiler._compile_module_with_cache("a kernel", ("-std=c++17", "-DDIM=3"), arch="90")
    added = {option.replace("-ftz", "--ftz") for option in given} - {"-std=c++17", "-DDIM=3", "-arch=sm_90"}
    assert added == set(CUPY_OPTIONS)


def test_libraries_take_no_more_memory_than_the_plan_counts():
    code = (
        "import psutil\nfrom nomad_dask.backends.cpu.backend import load_kernels\nload_kernels()\n"
        "before = psutil.Process().memory_info().rss\n"
        "import cudf, cuml.cluster, cupy, dask_cuda, kvikio.defaults, rmm.mr\n"
        "from cupy.cuda import cufft\nfrom cupy_backends.cuda.libs import cublas\n"
        "print(psutil.Process().memory_info().rss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert LIBRARY_BYTES / 2 < int(done.stdout.split()[-1]) <= LIBRARY_BYTES


def test_kvikio_has_a_number_of_threads():
    import kvikio.defaults

    before = kvikio.defaults.get("num_threads")
    with kvikio.defaults.set("num_threads", 16):
        assert kvikio.defaults.get("num_threads") == 16
    assert kvikio.defaults.get("num_threads") == before


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32 + 7, 2**63 - 1])
def test_every_worker_takes_the_parameters_of_k_means_on_several_gpus(monkeypatch, seed):
    """Those that `cuml.dask` adds must not be among them; cuML checks values when it computes, which needs a GPU."""
    import dask
    from cuml.cluster.kmeans_mg import KMeansMG
    from cuml.dask.cluster import KMeans
    from cuml.internals.validation import check_random_seed

    from nomad_dask.backends.cuml_kmeans import fit_centroids

    given: dict[str, Any] = {}

    def fit(self: Any, x: Any) -> None:
        given.update(self.kwargs, shape=x.shape)
        self.cluster_centers_ = SimpleNamespace(get=lambda: np.ones((3, 2)))

    monkeypatch.setattr(KMeans, "fit", fit)
    parts = [(dask.delayed(np.zeros)((n, 2), np.float32), n) for n in (5, 4)]
    assert fit_centroids(object(), parts, 2, 3, seed).dtype == np.float32
    assert given.pop("shape") == (9, 2)
    assert check_random_seed(given["random_state"]) == seed % 2**32
    KMeansMG(handle=None, output_type="cupy", **given)._validate_fit_params()
