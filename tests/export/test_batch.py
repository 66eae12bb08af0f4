"""Many models in processes of their own: failures stay alone, kills leave old or new, what is done is skipped."""

import fcntl
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import little
from bundle.store import open_bundle, versions
from export import batch
from export.__main__ import main
from export.exports import code_digest
from export.jobs import BatchJob
from export.report import Report

ROOT = Path(__file__).parents[2]

DRIVER = """
import sys
from pathlib import Path
import little
from export import batch, exports
from export.jobs import BatchJob
if __name__ == "__main__":
    exports.code_digest = lambda: "as it was"
    batch.run(BatchJob(file=Path(sys.argv[1])), little.freeze)
"""


def jobs_file(folder: Path, *names: str, weights: str = "random:0") -> Path:
    """Models of these names, of the little network that `little.freeze` makes."""
    tables = (f"[[models]]\nnetwork = 'little'\nname = '{name}'\nweights = '{weights}'\n" for name in names)
    path = folder / "jobs.toml"
    path.write_text("repository = 'models'\n" + "".join(tables))
    return path


def run(file: Path, jobs: int = 1) -> Report:
    return batch.run(BatchJob(file=file, jobs=jobs), little.freeze)


def states(report: Report) -> dict[str, str]:
    return {row.name: row.state for row in report.rows}


def digests(repository: Path, *names: str) -> list[str]:
    return [open_bundle(repository, name, 1).digest for name in names]


def nothing_aside(repository: Path) -> bool:
    return not list(repository.rglob(".*"))


def test_failures_of_every_kind_stay_alone(tmp_path: Path) -> None:
    report = run(jobs_file(tmp_path, "bad", "killed", "one", "broken", "two"), jobs=2)
    assert states(report) == {"bad": "failed", "killed": "failed", "one": "done", "broken": "failed", "two": "done"}
    reasons = {row.name: row.reason for row in report.rows}
    assert reasons["bad"] == "<b>these</b> weights are bad"
    assert reasons["killed"].startswith("its process was ended by SIGKILL")
    assert reasons["broken"] == "ZeroDivisionError: a fault of ours"
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["one", "two"]
    assert nothing_aside(tmp_path / "models")
    row = report.rows[2]
    assert (row.parameters, row.folded_parameters, row.macs) == (little.PARAMETERS, little.FOLDED, little.MACS)
    assert (row.max_rel, row.tolerance, row.batchnorm_nodes) == (3e-6, 2e-5, 1)
    assert row.digest == open_bundle(tmp_path / "models", "one", 1).digest
    assert row.bytes == sum(
        f.stat().st_size for f in (tmp_path / "models/one/1").iterdir() if f.name != "manifest.json"
    )
    assert row.seconds is not None
    assert row.peak_mib is not None
    assert row.seconds > 0
    assert 20 < row.peak_mib < 20_000  # MiB, not KiB or bytes


def test_what_is_done_is_skipped_and_what_changed_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models"
    made = run(jobs_file(tmp_path, "one"))
    again = run(jobs_file(tmp_path, "one"))
    assert (states(made), states(again)) == ({"one": "done"}, {"one": "skipped"})
    assert again.rows[0].model_dump(exclude={"state"}) == made.rows[0].model_dump(exclude={"state"})
    assert versions(repository, "one") == [1]
    run(jobs_file(tmp_path, "one", weights="random:1"))
    assert versions(repository, "one") == [1, 2]
    monkeypatch.setattr("export.exports.code_digest", lambda: "changed")
    changed = run(jobs_file(tmp_path, "one", weights="random:1"))
    assert changed.rows[0].state == "done"
    assert open_bundle(repository, "one", 2).digest == open_bundle(repository, "one", 3).digest


def test_a_version_that_is_taken_by_another_bundle_fails_before_the_work(tmp_path: Path) -> None:
    file = jobs_file(tmp_path, "one")
    file.write_text(file.read_text() + "version = 3\n")
    assert states(run(file)) == {"one": "done"}
    assert states(run(file)) == {"one": "skipped"}
    file.write_text(file.read_text().replace("random:0", "random:1"))
    (row,) = run(file).rows
    assert (row.state, row.seconds) == ("failed", None)
    assert row.reason.startswith("one has a version 3")


def test_links_and_damaged_records_fail_their_own_model(tmp_path: Path) -> None:
    file = jobs_file(tmp_path, "linked", "damaged", "..")
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, tmp_path / "models" / "damaged"):
        folder.mkdir(parents=True)
    (tmp_path / "models" / "linked").symlink_to(elsewhere)
    (tmp_path / "models" / "damaged" / "exports.json").write_text("[]")
    reasons = [row.reason for row in run(file).rows]
    assert "linked is a symbolic link" in reasons[0]
    assert "damaged/exports.json is damaged" in reasons[1]
    assert "'..' is no model name" in reasons[2]
    assert list(elsewhere.iterdir()) == []


def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the second of three is at work; its worker must end with it and may never publish."""
    monkeypatch.setattr("export.exports.code_digest", lambda: "as it was")  # also when sources change meanwhile
    file, repository = jobs_file(tmp_path, "one", "stuck", "three"), tmp_path / "models"
    (tmp_path / "driver.py").write_text(DRIVER)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "MULTICROP_TEST_STUCK": "1"}
    with subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", file], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        with pytest.raises(ValueError, match="another batch is writing to"):
            run(file)
        process.kill()
        assert process.stdout.read() == ""  # the pipe ends when the last process that holds it does
    assert versions(repository, "one") == [1]
    assert versions(repository, "stuck") == []
    assert states(run(file)) == {"one": "skipped", "stuck": "done", "three": "done"}
    assert nothing_aside(repository)
    untouched = tmp_path / "untouched"
    untouched.mkdir()
    run(jobs_file(untouched, "one", "stuck", "three"))
    names = ("one", "stuck", "three")
    assert digests(repository, *names) == digests(untouched / "models", *names)


def test_a_kill_between_record_and_rename_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bundle.store.move_bundle", killed)
        with pytest.raises(KeyboardInterrupt):
            run(jobs_file(tmp_path, "one"))
    assert versions(tmp_path / "models", "one") == []
    assert states(run(jobs_file(tmp_path, "one"))) == {"one": "done"}
    assert versions(tmp_path / "models", "one") == [1]


def test_no_bundle_appears_before_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other order would export a second copy after a kill between the two."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        run(jobs_file(tmp_path, "one"))
    assert versions(tmp_path / "models", "one") == []
    assert nothing_aside(tmp_path / "models")


def test_two_batches_do_not_write_to_one_repository(tmp_path: Path) -> None:
    file = jobs_file(tmp_path, "one")
    (tmp_path / "models").mkdir()
    descriptor = os.open(tmp_path / "models", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert main(["batch", str(file)]) == 1
    os.close(descriptor)
    assert states(run(file)) == {"one": "done"}


@pytest.mark.slow
def test_real_networks_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.toml"
    file.write_text(
        "repository = 'models'\n[defaults]\nweights = 'random:0'\n[[models]]\nnetwork = 'lenet5'\n"
        "[[models]]\nnetwork = 'resnet20'\n[[models]]\nnetwork = 'resnet21'\n"
    )
    arguments = ["batch", str(file), "--jobs", "2", "--report", str(tmp_path / "report")]
    assert main(arguments) == 1
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:4]] == [
        ["lenet5/1", "done"],
        ["resnet20/1", "done"],
        ["resnet21", "failed"],
    ]
    assert "there is no network 'resnet21'" in table[4]
    found = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert [(row["parameters"], row["folded_parameters"], row["macs"]) for row in found[:2]] == [
        (61_706, 61_706, 416_520),
        (269_722, 269_034, 40_551_040),
    ]
    assert [row["batchnorm_nodes"] for row in found] == [0, 0, None]
    file.write_text(file.read_text().partition("[[models]]\nnetwork = 'resnet21'")[0])
    assert main(arguments) == 0
    assert "2 models: 0 done, 2 skipped, 0 failed" in capsys.readouterr().out


def test_a_terminal_sees_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    run(jobs_file(tmp_path, "one", "two"))
    seen = terminal.getvalue().split("\r")
    assert any(line.startswith("1 of 2 |") and "50%" in line and "to go" in line for line in seen)
    assert any(line.startswith("2 of 2 |") and "100%" in line for line in seen)


def test_the_report_lies_beside_the_list(tmp_path: Path) -> None:
    run(jobs_file(tmp_path, "bad"))
    assert sorted(path.name for path in (tmp_path / "jobs-report").iterdir()) == ["report.html", "report.json"]


def test_the_code_digest_is_one_for_a_run() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64
