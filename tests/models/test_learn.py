"""Reports become records."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from models import known, learn
from models.known import known_architectures, parse_architectures

FILE = Path(known.__file__).with_name(known.FILE)


def report_of(build, architecture: str, model: str, *extra) -> dict:
    report = build.make_report([*build.attention(), *build.mlp()], outside=list(extra))
    return report | {
        "architecture": architecture,
        "model_type": "new",
        "model": model,
        "versions": {"transformers": "5.0.0"},
    }


def test_shared_and_optional_features(build):
    """What all reports of an architecture show is its signature, what some show is optional."""
    tied = build.gemm("lm_head", 512, 64, tied=True)
    untied = build.gemm("lm_head", 512, 64)
    reports = [report_of(build, "New", "org/a", tied), report_of(build, "New", "org/b", untied)]
    (record,) = learn.learn({}, reports)
    assert record.examples == ("org/a", "org/b")
    assert record.optional == ("embedding:tied",)
    assert "attention:gqa" in record.signature
    assert record.traced_with == "transformers 5.0.0"
    assert (record.family, record.source) == ("", "")


def test_the_rest_stays(build):
    """Records without a report keep what they say; names and sources of described ones stay too."""
    before = known_architectures()
    report = report_of(build, "MixtralForCausalLM", "org/a")
    after = {a.architecture: a for a in learn.learn(before, [report])}
    assert after.keys() == before.keys()
    assert after["LlamaForCausalLM"] == before["LlamaForCausalLM"]
    assert after["MixtralForCausalLM"].family == before["MixtralForCausalLM"].family


def test_default_configs_are_no_examples(build):
    """A config that transformers makes up is not published."""
    (record,) = learn.learn({}, [report_of(build, "New", "org/a")], default_config=True)
    assert record.examples == ()
    assert record.traced_with == "transformers 5.0.0, default config"


def test_round_trip():
    """The file is what the tool writes: reading and writing it changes nothing."""
    text = FILE.read_text(encoding="utf-8")
    data = tomllib.loads(text)
    assert learn.to_toml(data["sources"], parse_architectures(data).values()) == text


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/model", "org/model"),
        ("/data/configs/org--model", "org/model"),
        ("configs/org--model/config.json", "org/model"),
        ("/data/model", "model"),
    ],
)
def test_model_name(model, name):
    """Examples are Hub ids; where a file lay is nobody's business."""
    assert learn.model_name(model) == name


def test_command_writes_the_file(build, tmp_path, capsys):
    """One report in, the described record in the file."""
    target = tmp_path / "architectures.toml"
    target.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    report = report_of(build, "New", "org/a") | {
        "layers": [],
        "op_list": {"lowering": "serving", "phases": {"context": [], "generation": []}},
    }
    source = tmp_path / "report.json"
    source.write_text(json.dumps(report), encoding="utf-8")
    assert learn.main([str(source), "--file", str(target)]) == 0
    assert "New" in parse_architectures(tomllib.loads(target.read_text(encoding="utf-8")))
    assert "1 described" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", '{"schema": 2}', "no JSON", '{"op_list": {"schema": 1}}'])
def test_not_a_report(tmp_path, capsys, text):
    """Anything else is misuse, said in one line, and the file stays as it is."""
    source, target = tmp_path / "report.json", tmp_path / "architectures.toml"
    source.write_text(text, encoding="utf-8")
    assert learn.main([str(source), "--file", str(target)]) == 2
    assert not target.exists()
    assert "trace-model MODEL --json" in capsys.readouterr().err
