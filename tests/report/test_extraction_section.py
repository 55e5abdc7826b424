from emi_ray.config import WorkspaceConfig
from emi_ray.reporting import build_report
from emi_ray.reporting.extraction_section import build_extraction_tables
from emi_ray.workspace import Workspace

RECORD = {
    "started": "2026-11-26T04:00:00+00:00",
    "seconds": 12.3,
    "ended": "done",
    "clips": 24,
    "clips_per_s": 1.95,
    "retries": 1,
    "nodes": [{"address": "10.0.0.1"}],
    "nodes_lost": [],
    "stages": {
        "text": {
            "ok": 23,
            "missing": 0,
            "failed": 1,
            "busy_share": 0.5,
            "real_time_factor": None,
            "share_of_bare_model": None,
            "actors": [
                {"node": "10.0.0.1", "gpus": ["0"], "clips": 12, "busy_s": 1.0, "restarts": 1},
                {"node": "10.0.0.1", "gpus": ["1"], "clips": 12, "busy_s": 1.0, "restarts": 0},
            ],
        }
    },
}


def test_runs_are_listed_latest_first_with_a_dash_where_a_number_does_not_apply(tmp_path):
    workspace = Workspace(str(tmp_path))
    workspace.write_config(WorkspaceConfig())
    workspace.write_json("extractions/20261126T040000.000Z.json", RECORD)
    workspace.write_json("extractions/20261126T050000.000Z.json", {**RECORD, "ended": None, "stages": {}})
    runs, stages = build_extraction_tables(workspace)
    assert [row[-1] for row in runs.rows] == ["not ended, or killed", "done"]
    assert stages.rows == [["text", "23", "0", "1", "2", "2", "50%", "–", "–"]]
    build_report(workspace)
    assert "Extraction runs" in workspace.read_text("report/index.html")
