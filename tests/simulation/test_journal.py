"""The journal of long jobs: kills, workers, and jobs that are not the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdn.errors import ConfigError
from tdn.simulation.journal import Journal, Shard

JOB = {"structures": 3, "model": "abc"}


def test_what_was_noted_is_there_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", JOB) as journal:
        journal.add({"index": 2, "energy": 0.1 + 0.2})
        assert journal.read(2)["energy"] == 0.1 + 0.2
    with Journal(tmp_path / "j", JOB, resume=True) as journal:
        assert 2 in journal
        assert 0 not in journal
        assert journal.read(2)["energy"] == 0.1 + 0.2


def test_line_cut_by_a_kill_does_not_count_and_does_no_harm(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", JOB) as journal:
        journal.add({"index": 0})
    with (tmp_path / "j" / "all.jsonl").open("ab") as file:
        file.write(b'{"index": 1, "ener')
    with Journal(tmp_path / "j", JOB, resume=True) as journal:
        assert len(journal) == 1
        journal.add({"index": 1})
    with Journal(tmp_path / "j", JOB, resume=True) as journal:
        assert len(journal) == 2


def test_workers_see_each_other(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", JOB, "1-of-2", resume=True) as one:
        one.add({"index": 0, "by": 1})
    with Journal(tmp_path / "j", JOB, "2-of-2", resume=True) as two:
        two.add({"index": 1, "by": 2})
        assert two.read(0)["by"] == 1
    with Journal(tmp_path / "j", JOB, resume=True) as both:
        assert [both.read(k)["by"] for k in (0, 1)] == [1, 2]
        both.remove()
    assert not (tmp_path / "j").exists()


def test_other_job_or_unasked_continuation_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", JOB):
        pass
    with pytest.raises(ConfigError, match="--resume continues"):
        Journal(tmp_path / "j", JOB)
    with pytest.raises(ConfigError, match="another model"):
        Journal(tmp_path / "j", {**JOB, "model": "other"}, resume=True)


def test_shards_divide_without_rest_or_overlap() -> None:
    shards = [Shard.parse(f"{k}/3") for k in (1, 2, 3)]
    assert [sum(index in shard for shard in shards) for index in range(10)] == [1] * 10


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/0", ""])
def test_wrong_shards_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="shard"):
        Shard.parse(text)
