"""The op lists of the small models as text: a change of any count, parameter or dim shows in review."""

from __future__ import annotations

import inspect

import pytest
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextAttention
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from tests.conftest import GOLDEN
from tests.tracer import small_models
from tests.tracer.small_models import each

pytestmark = pytest.mark.golden


def line(op: dict) -> str:
    params = " ".join(
        f"{k}={v}" for k, v in op["params"].items() if v not in (False, None, 0, 0.0, "none")
    )
    dims = " ".join(f"{k}={v}" for k, v in op["dims"].items())
    marks = f"  [{','.join(op['rewrites'])}]" if op["rewrites"] else ""
    text = f"{op['count']:>2} x {op['op']} {op['name']} | {params} | {dims} | {op['weight_bytes']} B{marks}"
    return text + (f"  <{split(op)}>" if op["parallel"] else "")


def split(op: dict) -> str:
    """How ranks split it: parts of what, and what follows."""
    dealt = (
        f"{name} " + "+".join(f"{size}/{parts}" for parts, size in shards.items())
        for name, shards in op["shards"].items()
    )
    return ", ".join([f"{op['parallel']}: {'; '.join(dealt)}", *filter(None, [op["collective"]])])


def unsplit(text: str) -> list[str]:
    """The lines without how ranks split them."""
    return [line.partition("  <")[0] for line in text.splitlines()]


@pytest.mark.parametrize("name", each())
def test_op_list(name, golden):
    """Serving, both phases, one line per op."""
    if name == "gemma4" and "prev_layers" in inspect.getsource(Gemma4TextAttention.__init__):
        pytest.skip("this transformers marks the last layer of each kind: more kinds, equal ops")
    found = small_models.report(name, "serving")
    lines = []
    for phase, ops in found["op_list"]["phases"].items():
        lines.append(f"{phase}:")
        layer = None
        for op in ops:
            if op["layer"] != layer:
                layer = op["layer"]
                lines.append(f"  {layer or 'outside the layers'}")
            lines.append(f"    {line(op)}")
    text = "\n".join(lines) + "\n"
    if name == "mamba2" and "group_size" not in inspect.getsource(MambaRMSNormGated):
        mixer = [line for line in lines if " mixer." in line]
        assert mixer
        assert not any("  <" in line for line in mixer)
        assert unsplit(text) == unsplit((GOLDEN / f"ops_{name}.txt").read_text(encoding="utf-8"))
        pytest.skip("this transformers norms all groups as one: ranks do not split them, equal ops")
    golden(f"ops_{name}.txt", text)
