"""The command line does what the notebooks do, and reports a user error in one line."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from polyp_utils.bench import runtimes
from polyp_utils.cli import main
from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import DivergedError, RunError
from polyp_utils.train import fit as training
from polyp_utils.train.fit import fit
from polyp_utils.train.learner import Learner

SMALL = {"limit": 8, "width": 4, "image_size": 32, "epochs": 1, "batch_size": 4, "seed": 3}


def words(**settings):
    flags = (("--" + key.replace("_", "-"), str(value)) for key, value in settings.items())
    return ["train", "--recipe", "quick", *(word for flag in flags for word in flag)]


def test_train_makes_the_same_run_as_fit(results, monkeypatch):
    assert main(words(**SMALL)) == 0
    (folder,) = results.iterdir()
    monkeypatch.setenv("POLYP_RESULTS", str(results / "by_fit"))
    run = fit(RunConfig.from_recipe("quick", **SMALL))
    assert run.name == folder.name
    by_cli, by_fit = load_file(folder / "model.safetensors"), load_file(run.weights)
    assert all(torch.equal(by_cli[key], by_fit[key]) for key in by_cli.keys() | by_fit.keys())


def test_every_setting_can_be_overridden(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", seen.append)
    given = {"lr": 0.5, "dice_absent": "exclude", "device": "cpu", "name": "n", "split": "s"}
    assert main([*words(**given), "--deterministic"]) == 0
    assert seen == [RunConfig.from_recipe("quick", **given, deterministic=True)]


def test_patterns_become_the_data_set(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", seen.append)
    assert main(["train", "--images", "i/*.jpg", "--masks", "m/*"]) == 0
    assert seen == [RunConfig.from_recipe("card", dataset="i/*.jpg::m/*")]
    assert seen[0].split == "grouped"


@pytest.mark.parametrize("verb", ["train", "audit", "bench", "equivalence", "runtimes", "folder"])
def test_half_a_data_set_is_refused(verb, capsys):
    assert main([verb, "--images", "i/*.jpg"]) == 2
    assert "--masks is missing: give the patterns of both, in quotes" in capsys.readouterr().err
    for also in (["--dataset", "x", "--masks", "m"], ["i/1.jpg"]):  # a shell has expanded i/*.jpg
        with pytest.raises(SystemExit):
            main([verb, "--images", "i/0.jpg", *also])
    printed = capsys.readouterr().err
    assert "--dataset: not allowed with argument --images" in printed
    assert "unrecognized arguments: i/1.jpg. Patterns need quotes" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "cart"], "unknown recipe 'cart': did you mean 'card'"),
        (["--recipe", "quick", "--width", "5"], "width is 5"),
        (["--recipe", "quick", "--limit", "4", "--batch-size", "8"], "batch_size is 8"),
        (["--recipe", "quick", "--scheme", "trimaps"], "did you mean 'trimap'"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(capsys, results, arguments, message):
    assert main(["train", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not results.exists()


@pytest.mark.parametrize("error", [RunError, DivergedError, FileNotFoundError])
def test_errors_of_a_run_are_reported_alike(capsys, monkeypatch, error):
    def fail(config):
        raise error("no such luck")

    monkeypatch.setattr(training, "fit", fail)
    assert main(words()) == 2
    assert capsys.readouterr().err == "error: no such luck\n"


def test_out_of_memory_is_one_line_and_its_advice_works(monkeypatch, capsys):
    full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"

    def fail(self, *batch):
        raise torch.OutOfMemoryError(full)

    def no_gpu(index):
        raise RuntimeError("No CUDA GPUs are available")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", fail)
        patch.setattr(torch.cuda, "mem_get_info", no_gpu)  # where there is one, it answers
        assert main(words(**SMALL)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {full}, with batch_size 4, micro_batches 0, width 4. Use a")
    assert said.count("\n") == 1
    assert main(words(**SMALL | {"batch_size": 2})) == 0


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(training, "fit", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(words())


def test_evaluate_scores_the_newest_run_and_writes_its_card(results, capsys):
    main(words(**SMALL))
    capsys.readouterr()
    assert main(["evaluate"]) == 0
    (folder,) = results.iterdir()
    rows = json.loads((folder / "summary.json").read_text())["scores"]
    assert f"polyp Dice {rows[0]['mean']:.3f} [" in capsys.readouterr().out
    assert f"**{rows[0]['mean']:.3f} [" in (folder / "README.md").read_text()


def test_audit_writes_its_tables(drawn_folder, results, capsys):
    assert main(["audit", "--dataset", str(drawn_folder)]) == 0
    folder = results / "audit-Kvasir-SEG"
    assert sorted(path.name for path in folder.iterdir()) == [
        "findings.csv",
        "frames.csv",
        "pairs.csv",
    ]
    assert "8 frames in" in capsys.readouterr().out


def test_audit_of_an_unknown_data_set_suggests_the_nearest(capsys):
    assert main(["audit", "--dataset", "kvasir"]) == 2
    assert "unknown dataset 'kvasir': did you mean 'kvasir-seg'?" in capsys.readouterr().err


def test_equivalence_and_runtimes_record_machine_and_date(results, monkeypatch, capsys):
    card = dict.fromkeys((runtimes.CARD, "other"), runtimes.FORWARDS[runtimes.CARD])
    monkeypatch.setattr(runtimes, "FORWARDS", card)  # the others are slow
    small = {"epochs": 1, "width": 4, "image-size": 32, "limit": 8}
    flags = [f"--{key}={value}" for key, value in small.items()]
    assert main(["equivalence", "--dataset=phantom", "--seeds=2", *flags]) == 0
    assert "loss" in capsys.readouterr().out
    run = fit(RunConfig.from_recipe("quick", **SMALL))
    assert main(["runtimes", f"--runs={run.name},{run.name}"]) == 0
    table = pd.read_csv(results / "benchmark/runtimes.csv")
    assert table["run"].tolist() == [run.name] * 2 * len(card)
    for name, facts in {
        "equivalence": {"width": 4, "limit": 8, "seeds": 2},
        "runtimes": {},
    }.items():
        described = json.loads((results / f"benchmark/{name}.json").read_text())
        assert described.items() >= {**facts, "torch": torch.__version__}.items()
        assert described.keys() >= {"device", "commit", "measured"}
