"""A table of matrix products that no GPU measured: times that follow a known law, with steps and noise."""

from pathlib import Path

import numpy

from oplib.op import kind
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system

SYSTEM = "h200_sxm"
ROWS_OF_M = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048)
SIZES = (512, 1024, 2048, 4096, 6144, 8192)


def write(folder: Path, *, spread: float = 0.01, seed: int = 0, lacking: str = "") -> Path:
    """`<folder>/h200_sxm/gemm/toy/1.0/gemm_perf.txt`; returns it. Efficiency grows with m and falls by a tenth above
    128 rows; `spread` is the noise of a measurement, `lacking` a column that is left out."""
    random = numpy.random.default_rng(seed)
    gemm, system = kind("gemm"), load_system(SYSTEM)
    names = [
        "framework",
        "version",
        "device",
        "op_name",
        "kernel_source",
        "gemm_dtype",
        "m",
        "n",
        "k",
        "latency",
    ]
    lines = []
    for n in SIZES:
        for k in SIZES:
            params = gemm.complete({"n": n, "k": k, "dtype": "bfloat16"})
            for m in ROWS_OF_M:
                bound = float(bound_ms(gemm, params, {"m": m}, system))
                slower = 1.3 + 0.5 / m + (0.1 if m > 128 else 0.0) + 200 / (n + k)
                time = (bound + 0.004) * slower * numpy.exp(spread * random.standard_normal())
                row = [
                    "Toy",
                    "1.0",
                    "H200",
                    "gemm",
                    "toy_kernel",
                    "bfloat16",
                    m,
                    n,
                    k,
                    f"{time:.9f}",
                ]
                lines.append(
                    [str(cell) for name, cell in zip(names, row, strict=True) if name != lacking]
                )
    path = folder / SYSTEM / "gemm" / "toy" / "1.0" / "gemm_perf.txt"
    path.parent.mkdir(parents=True)
    header = ",".join(name for name in names if name != lacking)
    path.write_text("\n".join([header, *(",".join(line) for line in lines)]) + "\n")
    return path
