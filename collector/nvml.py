"""What the GPU says of itself while it is measured: clocks, reasons to throttle, energy. Nothing is ever set."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

THROTTLE = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}  # bits of nvmlDeviceGetCurrentClocksEventReasons that lower the clock; idle and settings of users are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The SM clock in MHz (0: unknown) and the reasons why it is lower than it could be."""

    clock: int = 0
    throttled: tuple[str, ...] = ()


class Meter(Protocol):
    """What a device can be asked. `most_clock` is the highest SM clock in MHz, 0 where unknown."""

    driver: str
    most_clock: int

    def read(self) -> Reading:
        """Clock and reasons now."""

    def energy_mj(self) -> float | None:
        """The device's energy counter in millijoules; None where it has none."""


class NoMeter:
    """A device that cannot be asked."""

    driver = ""
    most_clock = 0

    def read(self) -> Reading:
        return Reading()

    def energy_mj(self) -> float | None:
        return None


class NvmlMeter:
    """An NVIDIA GPU through nvidia-ml-py, found by its UUID, which CUDA_VISIBLE_DEVICES does not renumber."""

    def __init__(self, uuid: str) -> None:
        import pynvml

        self._nvml: Any = pynvml  # Any: a package without types
        pynvml.nvmlInit()
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        version = pynvml.nvmlSystemGetDriverVersion()
        self.driver = version.decode() if isinstance(version, bytes) else str(version)
        self.most_clock = int(pynvml.nvmlDeviceGetMaxClockInfo(self._handle, pynvml.NVML_CLOCK_SM))

    def read(self) -> Reading:
        nvml = self._nvml
        try:
            clock = nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM)
            bits = _reasons(nvml)(self._handle)
        except nvml.NVMLError:
            return Reading()
        return Reading(
            clock=int(clock), throttled=tuple(name for bit, name in THROTTLE.items() if bits & bit)
        )

    def energy_mj(self) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:
            return None


def _reasons(nvml: Any) -> Any:  # Any: the function has another name in older packages
    if hasattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons"):
        return nvml.nvmlDeviceGetCurrentClocksEventReasons
    return nvml.nvmlDeviceGetCurrentClocksThrottleReasons


def meter_of(uuid: str | None) -> Meter:
    """The meter of a GPU, or one that knows nothing where there is no GPU or no NVML."""
    if uuid is None:
        return NoMeter()
    try:
        return NvmlMeter(uuid)
    except Exception:  # noqa: BLE001 - no package, no library, no permission: all mean that nobody can be asked
        return NoMeter()


def wait_for_tick(meter: Meter, keep_busy: Any, timeout: float = 0.5) -> tuple[float, float] | None:
    """(time, millijoules) at the moment when the energy counter moves; `keep_busy()` runs between looks.

    The counter of an H200 moves every 100 ms. None where it does not move.
    """
    first = meter.energy_mj()
    if first is None:
        return None
    end = time.perf_counter() + timeout
    while time.perf_counter() < end:
        keep_busy()
        value = meter.energy_mj()
        if value is not None and value != first:
            return time.perf_counter(), value
    return None
