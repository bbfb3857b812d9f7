"""Progress without a bar: never silent for long, and not a page full of lines."""

import re
from itertools import pairwise
from types import SimpleNamespace

import pytest

from polyp_utils.common import progress
from polyp_utils.common.config import RunConfig
from polyp_utils.common.progress import Progress, duration
from polyp_utils.train.fit import fit


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in seconds."""
    hands = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: hands.now))
    return hands


def test_hours_of_work_report_progress_often_at_first_and_rarely_later(clock, capsys):
    with Progress("work", total=10_000) as work:
        for second in range(1, 10_001):
            clock.now = second
            work.advance(f"step {second}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 8  about 2.8 h left"
    times = [0, *(int(re.match(r"step (\d+)", line)[1]) for line in lines)]
    assert all(later - time <= max(8, 0.05 * later + 1) for time, later in pairwise(times))
    assert len(lines) < 120


def test_any_line_restarts_the_wait(clock, capsys):
    with Progress("work", total=20, done=10) as work:
        for second in range(1, 11):
            clock.now = second
            work.advance("step")
            if second == 5:
                work.line("half")
        clock.now = 13
        work.beat("at the end")
    assert capsys.readouterr().out.splitlines() == ["half", "at the end"]


def test_the_time_left_is_estimated_from_the_work_of_this_process(clock, capsys):
    with Progress("work", total=20, done=10) as work:
        clock.now = 60
        work.beat("nothing yet")
        clock.now = 120
        work.advance("one")
    assert capsys.readouterr().out.splitlines() == ["nothing yet", "one  about 18.0 min left"]


def test_durations_in_words():
    assert [duration(s) for s in (9.4, 60, 192, 3600)] == ["9 s", "1.0 min", "3.2 min", "1.0 h"]


def test_every_stage_of_training_reports_progress(results, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.0)
    tiny = {"limit": 8, "width": 4, "image_size": 32, "epochs": 1, "batch_size": 4}
    fit(RunConfig.from_recipe("quick", **tiny))
    said = re.sub(r"  about .* left$", "", capsys.readouterr().out, flags=re.M).splitlines()
    expected = [*(f"epoch 1/1  {what}" for what in ("step 1/2", "step 2/2", "validation"))]
    expected += ["predictions for val", "predictions for test"]
    assert [line for line in dict.fromkeys(said) if line in expected] == expected
