"""Rules of this file: the vectors in tests/golden are the protocol. What is computed today must
equal them, on every kernel and thread count that can be forced here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipaco.protocol.routing.integers import Int64
from dipaco.protocol.routing.scores import Product, Whole, float64_product, int64_product
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.wire.canonical import decode
from tests.golden import router_vectors
from tests.protocol.routing import reference

ROOT = Path(__file__).parents[3]


def golden(name: str) -> Any:
    return json.loads((router_vectors.FOLDER / name).read_text())


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        ("router_primitives.json", router_vectors.primitives),
        ("router_toy.json", router_vectors.toy),
        ("router_large.json", router_vectors.large),
        ("router_basis.json", router_vectors.basis),
        ("router_spec.json", router_vectors.spec),
    ],
)
def test_the_router_gives_the_golden_vectors(name: str, compute: Any) -> None:
    assert compute() == golden(name)


def test_the_files_say_what_the_recipe_says() -> None:
    """Against writing the files again after a change: the digests of docs/method.md, 4.11."""
    primitives, toy, large = (golden(f"router_{n}.json") for n in ("primitives", "toy", "large"))
    assert primitives["draw_word"] == 5906242977649748751
    assert primitives["featurizer_seed_root_zero"].startswith("fceb5d82c1e1e24b")
    assert primitives["split_residues"] == [5947, 7743, 1691, 2624, 5370, 7203]
    assert toy["features"].startswith("a2efa2faecd6a807")
    assert toy["centroids"].startswith("c6230a1974d00234")
    assert large["features"].startswith("6d70b7c7eb969b4b")
    assert large["centroids"].startswith("009abb890b87f0c5")
    assert large["inertias"] == [
        123660593296279,
        124405081248545,
        123561452611672,
        123698136549588,
    ]
    assert large["capacity_bias"][:4] == [0, 3861295394, 3892185757, 3984856847]
    assert max(large["capacity_documents"]) == 136
    basis = golden("router_basis.json")
    assert basis["idf"].startswith("b698d3eda1cb199b")
    assert basis["basis"].startswith("6c2f6333a76f7e90")
    assert basis["features"].startswith("aeaea2fff99f4fe0")


def test_the_oracle_gives_the_toy_vectors() -> None:
    toy = golden("router_toy.json")
    y = [reference.raw(row, router_vectors.A, 8) for row in toy["prefixes"]]
    mean = reference.mean(y)
    x = [reference.normalised(row, mean, router_vectors.NORM_BITS) for row in y]
    scale, updates = router_vectors.SCALE, router_vectors.MAX_UPDATES
    found, _, _ = reference.kmeans(x, 3, router_vectors.B, scale=scale, max_updates=updates)
    assert (y, mean, x) == (toy["y"], toy["mean"], toy["x"])
    assert [reference.route(row, found, scale, [0] * 3, 1)[0] for row in x] == toy["assignment"]
    centroids = np.array(found, dtype=np.int32)
    assert router_vectors.centroids_digest(centroids) == toy["centroids"]


def test_the_oracle_gives_the_toy_basis() -> None:
    found, toy = golden("router_basis.json"), router_vectors.TOY.tolist()
    idf, columns = reference.basis(toy + toy, router_vectors.A, 8)
    assert ([*idf], [*idf.values()]) == (found["toy_terms"], found["toy_idf"])
    assert [list(row) for row in zip(*columns, strict=True)] == found["toy_columns"]
    assert [reference.projected(row, idf, columns) for row in toy] == found["toy_y"]


def in_small_batches(x: Whole, c: Whole) -> Int64:
    """Multiply 700 rows at a time: other shapes take other kernels."""
    return np.concatenate([float64_product(x[i : i + 700], c) for i in range(0, len(x), 700)])


def in_parts(x: Whole, c: Whole) -> Int64:
    """Add the dimensions up in another order: the last ones first."""
    first = float64_product(x[:, 170:], c[:, 170:])
    return first + int64_product(x[:, :170], c[:, :170])


def in_torch(rows: int, threads: int) -> Product:
    """Multiply in torch's float64 on the CPU, so many rows at a time, by so many threads."""

    def product(x: Whole, c: Whole) -> Int64:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        right = torch.from_numpy(c.astype(np.float64)).T
        parts = [x[i : i + rows].astype(np.float64) for i in range(0, len(x), rows)]
        found = [(torch.from_numpy(part) @ right).to(torch.int64).numpy() for part in parts]
        torch.set_num_threads(before)
        return np.concatenate(found)

    return product


@pytest.mark.slow
@pytest.mark.parametrize(
    "product",
    [int64_product, in_small_batches, in_parts, in_torch(4096, 2), in_torch(333, 1)],
)
def test_the_router_does_not_depend_on_type_batch_or_order_of_summation(product: Any) -> None:
    assert router_vectors.large(product) == golden("router_large.json")
    assert router_vectors.basis(product) == golden("router_basis.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Prescott"},
        {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Nehalem"},
    ],
)
def test_the_router_does_not_depend_on_threads_or_blas_kernels(environment: dict[str, str]) -> None:
    """Both kernels run wherever NumPy's x86 wheels do; other machines ignore the names."""
    code = (
        "import json, tests.golden.router_vectors as v; print(json.dumps([v.large(), v.basis()]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    large, basis = json.loads(result.stdout)
    assert (large, basis) == (golden("router_large.json"), golden("router_basis.json"))


@pytest.mark.parametrize("name", ["kmeans", "capacity", "capacity-tokens", "fallback", "basis"])
def test_the_golden_specs_decode_to_their_digests(name: str) -> None:
    case = golden("router_spec.json")[name]
    spec = decode(bytes.fromhex(case["encoding"]), RouterSpec, limit=1 << 20)
    assert spec_digest(spec).hex() == case["digest"]
