"""The report's records: report.json key for key, and back."""

import json
from dataclasses import replace

import pytest
from reports import CHOICE, FULL, VERIFIED

from penjing.errors import InputError
from penjing.files.records import from_json, to_json
from penjing.report.record import Choice, Report, StudentRow, Verified

REPORT_KEYS = {
    "version", "penjing", "task", "metric", "metric_said", "met", "asked", "command", "date", "commit", "seed", "workload", "machine", "versions",
    "teacher", "baselines", "result", "forms", "gates", "steps", "blueprint", "teacher_blueprint", "kept_layers", "student", "held_out",
    "flipped", "scores", "overlap", "tests", "shapes", "stored",
}  # fmt: skip
FIGURES = {
    "latency_ms", "latency_p95_ms", "latency_p99_ms", "end_to_end_ms", "throughput_per_s", "load_s", "cold_start_s", "peak_mb", "steady",
}  # fmt: skip
QUALITY = {"quality", "quality_ci95"}
PAIRED = QUALITY | {"teacher_quality", "drop", "drop_ci95", "drop_at_most", "p_value"}
FORM = {"name", "engine", "chosen", "bytes", "held_out_quality", "loss", "fit"} | FIGURES
KEYS = {
    "teacher": QUALITY | FIGURES | {"form", "bytes", "parameters"},
    "result": PAIRED | FIGURES | {
        "engine", "bytes", "held_out_quality", "form", "parameters", "float_quality", "speedup_vs_eager", "speedup_range", "disturbance", "macs",
        "kernels", "float_layers", "temperature",
    },
    "workload": {"lengths_p50", "lengths_p95", "batch", "threads", "texts"},
    "machine": {"cpu", "cores", "memory_gb", "system", "instructions"},
    "held_out": {"examples", "drop"},
    "overlap": {"same", "inside", "examples"},
    "flipped": {"worse", "better", "examples", "by_label"},
    "scores": {"temperature", "teacher", "before", "after", "examples"},
    "stored": {"dense_bytes", "dense_load_s", "packed_bytes", "packed_load_s", "zeros", "bits", "sparsity"},
}  # fmt: skip
"""What users read report.json by."""
ROWS = {
    "gates": {"name", "passed", "value", "limit", "asked", "decides"},
    "steps": {"name", "seconds", "quality", "bytes", "note"},
    "tests": PAIRED | {"data", "overlap"},
    "shapes": {"batch", "tokens", "own", "form", "teacher_ms", "latency_ms", "speedup", "steady", "macs"},
}


def test_report_json_has_the_keys_that_users_read() -> None:
    written = to_json(FULL)
    assert written.keys() == REPORT_KEYS
    assert {name: set(written[name]) for name in KEYS} == KEYS
    assert {name: set(written[name][0]) for name in ROWS} == ROWS
    assert [set(row) for row in written["forms"]] == [FORM | PAIRED, FORM, FORM]
    assert {name: set(row) for name, row in written["baselines"].items()} == dict.fromkeys(
        FULL.baselines, QUALITY | FIGURES | {"form", "bytes"}
    )
    assert written["version"] == Report.VERSION and written["student"] == {} and written["blueprint"]["layers"][0] == [9, 820]


@pytest.mark.parametrize("changes", [
    {}, {"met": None, "asked": None}, {"blueprint": None, "student": StudentRow("static", "sequence", False)}, {"stored": None},
    {"tests": (), "shapes": (), "forms": (), "gates": ()}, {"commit": None},
], ids=str)  # fmt: skip
def test_a_report_is_read_as_it_was_written(changes: dict[str, object]) -> None:
    report = replace(FULL, **changes)  # type: ignore[arg-type]
    assert from_json(Report, json.loads(json.dumps(to_json(report))), "report.json") == report


def test_what_the_steps_keep_is_read_as_it_was_written() -> None:
    none = replace(CHOICE, chosen=None, held_out=None, scores=None)
    for record in (CHOICE, none, VERIFIED):
        kind: type[Choice] | type[Verified] = type(record)
        assert from_json(kind, json.loads(json.dumps(to_json(record))), "record.json") == record
    assert "drop" not in to_json(none) and none.lost(None) == float("inf")
    assert (CHOICE.lost(None), CHOICE.lost(0.9)) == (0.4, 1.0)


def test_a_report_of_another_version_or_with_another_field_is_an_error() -> None:
    written = to_json(FULL)
    for changed, message in (
        (written | {"version": 2}, "version: 2 is not version 1"), (written | {"colour": 1}, "'colour' is unknown"),
        ({name: value for name, value in written.items() if name != "result"}, "result is missing"),
        (written | {"result": written["result"] | {"latency_ms": "fast"}}, "result: 'fast' is not a number|latency_ms: 'fast' is not a number"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            from_json(Report, changed, "report.json")
