"""Sisters: what a table lacks is taken from that of the same chip with another memory, and said to be."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from oplib.errors import PerfDataNotAvailableError
from oplib.op import kind
from perfdb import sisters
from perfdb.database import PerfDatabase
from perfdb.empirical import stated_ms
from perfdb.lending import FEWEST
from perfdb.sisters import Scaling, scaling_of, scalings, sisters_of
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system
from perfdb.table_file import Measurement, write_table
from tools.fit_sisters import fit

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

KIND = kind("gemm")
HERE, THERE = load_system("h200_sxm"), load_system("h100_sxm")
PARAMS = KIND.complete({"n": 4096, "k": 4096, "dtype": "bfloat16"})
SIZES = (1, 4, 16, 64, 256, 1024, 4096, 16384)
SLOWER = 1.4  # times the bound and the launch, that every row takes
LAUNCH = 0.004
STATED = Scaling(elasticity=0.6, uncertainty=0.05, source="made for tests")
STATED_POWER = Scaling(elasticity=0.0, uncertainty=0.2, source="made for tests")


def table(
    folder: Path, system: str, sizes=SIZES, power: float | None = None, slower=lambda _: SLOWER, dtype="bfloat16"
) -> None:  # fmt: skip
    params = {**PARAMS, "dtype": dtype}
    rows = [
        Measurement(
            framework="toy",
            version="1.0",
            device=system,
            kernel_source="toy",
            params=params,
            power=power,
            dims={"m": m},
            latency=slower(m)
            * (float(bound_ms(KIND, params, {"m": m}, load_system(system))) + LAUNCH),
        )
        for m in sizes
    ]
    path = folder / system / "toy" / "1.0" / "gemm_perf.txt"
    path.parent.mkdir(parents=True)
    write_table(path, KIND, rows)


@pytest.fixture(autouse=True)
def stated(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"gemm.toy": STATED, "power.toy": STATED_POWER}
    monkeypatch.setattr(sisters, "scalings", lambda: both)


def database(folder: Path, mode: str = "hybrid") -> PerfDatabase:
    return PerfDatabase.load(system=HERE.id, backend="toy", mode=mode, data=folder)


def expected(folder: Path, m: int) -> float:
    """Her row, scaled by the bounds over what her shortest rows take that do nothing."""
    her = PerfDatabase.load(system=THERE.id, backend="toy", data=folder)
    launch = her.entry(KIND, PARAMS, {"m": m}).launch
    here, there = (float(bound_ms(KIND, PARAMS, {"m": m}, one)) for one in (HERE, THERE))
    scale = ((here + launch) / (there + launch)) ** STATED.elasticity
    return SLOWER * (there + LAUNCH) * scale


def test_a_sister_is_the_same_chip_with_another_memory() -> None:
    assert [one.id for one in sisters_of(HERE)] == [THERE.id]
    assert [one.id for one in sisters_of(THERE)] == [HERE.id]
    assert not list(sisters_of(load_system("b200_sxm")))


@pytest.mark.parametrize("m", [1, 64, 16384])
def test_without_rows_the_sister_answers(tmp_path: Path, m: int) -> None:
    """Her time at a measured point, scaled; empirical, with both errors, and a word of it."""
    table(tmp_path, THERE.id)
    db = database(tmp_path)
    found = db.price(KIND, PARAMS, {"m": m})
    assert found == pytest.approx(expected(tmp_path, m), rel=1e-5)
    assert found.origin == "empirical"
    assert found.uncertainty >= STATED.uncertainty
    assert list(db.borrowed) == [THERE.id]
    assert list(db.borrowed[THERE.id]) == [KIND.name]
    assert db.price(KIND, PARAMS, {"m": numpy.array([m, 4])}).shape == (2,)


def test_a_sister_without_the_version_or_the_backend_is_not_asked(tmp_path: Path) -> None:
    """Nor does she stop anything: the stated efficiency answers."""
    table(tmp_path, HERE.id, SIZES[:2])
    table(tmp_path, THERE.id)
    (tmp_path / THERE.id / "toy" / "1.0").rename(tmp_path / THERE.id / "toy" / "0.9")
    own = PerfDatabase.load(system=HERE.id, backend="toy", version="1.0", data=tmp_path)
    assert own.price(KIND, PARAMS, {"m": 4096}).origin == "extrapolated"
    (tmp_path / THERE.id / "toy").rename(tmp_path / THERE.id / "other")
    assert database(tmp_path).price(KIND, PARAMS, {"m": 4096}).origin == "extrapolated"


def test_own_power_stays(tmp_path: Path) -> None:
    """Beyond the own rows the sister knows the time; the power is that of the own rows."""
    table(tmp_path, THERE.id, power=30.0)
    table(tmp_path, HERE.id, SIZES[:4], power=300.0)
    db = database(tmp_path)
    found = db.price(KIND, PARAMS, {"m": 16384})
    assert found.origin == "empirical"
    assert found.power > 200.0
    assert list(db.borrowed[THERE.id]) == [KIND.name]


def test_power_is_hers_where_ours_is_of_too_few_rows(tmp_path: Path) -> None:
    """The time stays ours; what is stated of her power is part of the error, and a word says whose it is."""
    table(tmp_path, THERE.id, power=400.0)
    table(tmp_path, HERE.id, power=None)
    path = tmp_path / HERE.id / "toy" / "1.0" / "gemm_perf.txt"
    header, first, *lines = path.read_text(encoding="utf-8").splitlines()
    rows = [f"{first},300", *(f"{line},nan" for line in lines)]
    path.write_text("\n".join([f"{header},power", *rows]) + "\n", encoding="utf-8")
    db = database(tmp_path)
    found = db.price(KIND, PARAMS, {"m": 64})
    assert (found.origin, found.power) == ("measured", pytest.approx(400.0, rel=1e-6))
    assert found.energy_uncertainty >= STATED_POWER.uncertainty
    assert list(db.borrowed[THERE.id]) == [f"{KIND.name} (power)"]
    unstated = {"gemm.toy": STATED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sisters, "scalings", lambda: unstated)
        assert database(tmp_path).price(KIND, PARAMS, {"m": 64}).energy is None


def test_only_hybrid_asks_her(tmp_path: Path) -> None:
    table(tmp_path, THERE.id)
    with pytest.raises(PerfDataNotAvailableError):
        database(tmp_path, "silicon").price(KIND, PARAMS, {"m": 64})
    plain, _ = stated_ms(KIND, PARAMS, {"m": 64}, HERE, backend="toy")
    assert database(tmp_path, "empirical").price(KIND, PARAMS, {"m": 64}) == pytest.approx(
        float(plain)
    )


def test_without_a_stated_scaling_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path, THERE.id)
    monkeypatch.setattr(sisters, "scalings", lambda: {"gemm.other": STATED})
    plain, _ = stated_ms(KIND, PARAMS, {"m": 64}, HERE, backend="toy")
    assert database(tmp_path).price(KIND, PARAMS, {"m": 64}) == pytest.approx(float(plain))


def test_own_rows_come_first_and_hers_beyond_them(tmp_path: Path) -> None:
    """A measured row counts, and what lies close to one; hers where they are less uncertain, place by place."""
    table(tmp_path, THERE.id)
    table(tmp_path, HERE.id, SIZES[:4])
    sizes = {"m": numpy.array([4, 60, 16384])}
    found = database(tmp_path).price(KIND, PARAMS, sizes)
    alone = database(tmp_path, "silicon").price(KIND, PARAMS, sizes)
    assert alone.uncertainty[1] < STATED.uncertainty
    assert list(found.origin) == ["measured", "interpolated", "empirical"]
    assert found.latency[:2] == pytest.approx(alone.latency[:2])
    assert found.latency[2] == pytest.approx(expected(tmp_path, 16384), rel=1e-5)
    assert found.uncertainty[2] < alone.uncertainty[2]


def test_points_of_both_say_how_the_ratio_goes(tmp_path: Path) -> None:
    """Sizes at which a kernel is slow, in no order that rows beside them show, are slow on both GPUs: her row tells it
    and the rows of both how much faster ours is. Where few points are measured on both, her time is only scaled."""
    every = [round(16 * 2 ** (i / 2)) for i in range(24)]
    slow = dict(zip(every, numpy.random.default_rng(5).uniform(1.2, 2.0, len(every)), strict=True))
    asked = every[3:20:4]
    both = [m for m in every if m not in asked]

    def errors(folder: Path, shared: list[int], mode: str) -> list[float]:
        table(folder, THERE.id, every, slower=slow.__getitem__)
        table(folder, HERE.id, shared, slower=lambda m: 0.97 * slow[m])
        db = database(folder, mode)
        return [
            db.price(KIND, PARAMS, {"m": m}).latency
            / (0.97 * slow[m] * (float(bound_ms(KIND, PARAMS, {"m": m}, HERE)) + LAUNCH))
            - 1
            for m in asked
        ]

    told = errors(tmp_path / "told", both, "hybrid")
    alone = errors(tmp_path / "alone", both, "silicon")
    few = errors(tmp_path / "few", [*both[: FEWEST - 2], both[-1]], "hybrid")
    assert max(map(abs, told)) < 0.05
    assert max(map(abs, alone)) > 0.3
    assert few[-3:] == pytest.approx([1 / 0.97 - 1] * 3, rel=1e-2)  # where memory is no limit


def test_what_is_stated_is_by_measured_points() -> None:
    """Every entry is between waiting for memory alone and not at all, and has its source."""
    for name, one in scalings().items():
        assert 0 <= one.elasticity <= 1, name
        assert 0 < one.uncertainty < 0.5, name
        assert one.source, name


def test_the_most_particular_scaling_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "mamba2.toy.context": replace(STATED, elasticity=0.1),
        "mamba2.toy": replace(STATED, elasticity=0.2),
        "other.toy": replace(STATED, elasticity=0.3),
    }
    monkeypatch.setattr(sisters, "scalings", lambda: entries)
    shape = {"num_heads": 8, "head_dim": 64, "d_state": 128, "n_groups": 1, "dtype": "bfloat16"}
    for phase, elasticity in (("context", 0.1), ("generation", 0.2)):
        params = {**shape, "phase": phase}
        assert scaling_of(kind("mamba2"), params, "toy").elasticity == elasticity
    assert scaling_of(KIND, PARAMS, "toy").elasticity == 0.3
    assert scaling_of(KIND, PARAMS, "absent") is None


def test_a_fit_finds_the_elasticity_and_what_is_left() -> None:
    random = numpy.random.default_rng(0)
    bounds = random.uniform(-0.4, 0.0, 500)
    times = 0.7 * bounds + 0.03 * random.standard_normal(500)
    elasticity, error = fit(numpy.stack([times, bounds], axis=1))
    assert elasticity == pytest.approx(0.7, abs=0.03)
    assert error == pytest.approx(0.03, rel=0.15)


def test_her_rows_go_before_ours_of_another_quantisation(tmp_path: Path) -> None:
    """fp8 answers for fp8_block where nobody has that; a sister who has it goes first, and who has it asks no fp8."""
    block = {**PARAMS, "dtype": "fp8_block"}
    table(tmp_path, HERE.id, dtype="fp8")
    alone = database(tmp_path)
    assert alone.price(KIND, block, {"m": 64}).origin == "measured"
    assert [note for note in alone.notes if "fp8 answers" in note]
    table(tmp_path, THERE.id, dtype="fp8_block", slower=lambda _: 2 * SLOWER)
    both = database(tmp_path)
    found = both.price(KIND, block, {"m": 64})
    assert (found.origin, list(both.borrowed), list(both.notes)) == ("empirical", [THERE.id], [])
    assert float(found) > 1.5 * float(alone.price(KIND, block, {"m": 64}))
    hers = PerfDatabase.load(system=THERE.id, backend="toy", data=tmp_path)
    assert hers.price(KIND, block, {"m": 1 << 17}).origin == "extrapolated"
    assert not hers.borrowed
