import math
from dataclasses import FrozenInstanceError, fields

import pytest

from polyp_utils.common import paths
from polyp_utils.common.config import RECIPES, RunConfig, check_parameters
from polyp_utils.data.catalog import get_info
from polyp_utils.data.labels import SCHEMES, get_scheme
from polyp_utils.data.splits import load_split

CARD = {  # shared facts, section 1: the model card's numbers
    "dataset": "kvasir-seg",
    "image_size": 256,
    "width": 64,
    "epochs": 20,
    "batch_size": 8,
    "lr": 1e-4,
    "lr_factor": 0.5,
    "lr_patience": 3,
    "min_lr": 1e-6,
    "ce_weight": 0.5,
    "dice_weight": 0.5,
}


def test_recipe_card_is_the_model_card():
    settings = RunConfig.from_recipe().to_dict()
    assert {key: settings[key] for key in CARD} == CARD
    split = load_split(settings["split"])
    assert (len(split.train), len(split.val), len(split.test)) == (800, 100, 100)
    assert get_scheme(settings["scheme"]).logits == 3


def test_card_binary_differs_from_the_card_only_in_the_scheme():
    card, binary = (RECIPES[name].to_dict() for name in ("card", "card-binary"))
    assert {key for key in card if card[key] != binary[key]} == {"recipe", "scheme"}
    assert get_scheme(binary["scheme"]).logits == 1


@pytest.mark.parametrize("former", ["seed", "seed-binary", "seed-small"])
def test_former_names_of_recipes_are_accepted_and_read(former):
    run = RunConfig.from_recipe(former, epochs=2)
    recipe = former.replace("seed", "card")
    assert run == RunConfig.from_recipe(recipe, epochs=2)
    assert run.recipe == recipe
    assert RunConfig.from_record({**run.to_dict(), "recipe": former}) == run
    assert run.run_name.startswith(f"{recipe}-")
    assert run.former_run_name == run.run_name.replace("card", "seed", 1)


def test_a_recipe_without_a_former_name_has_no_former_run():
    assert RunConfig.from_recipe("release").former_run_name == ""
    assert RunConfig.from_recipe("card", name="mine").former_run_name == ""


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete(name):
    recipe = RECIPES[name]
    assert recipe.recipe == name
    get_scheme(recipe.scheme)
    split = load_split(recipe.split, recipe.dataset)
    assert len(split.train + split.val + split.test) == get_info(recipe.dataset).count


def test_overrides_change_only_what_they_name():
    run = RunConfig.from_recipe("quick", epochs=2, lr=None, seed=None)
    changed = {k for k, v in run.to_dict().items() if v != RECIPES["quick"].to_dict()[k]}
    assert changed == {"epochs"}


def test_the_help_of_scheme_names_all_schemes():
    (text,) = [f.metadata["help"] for f in fields(RunConfig) if f.name == "scheme"]
    assert all(name in text for name in SCHEMES)


def test_an_integer_is_accepted_for_a_float():
    run = RunConfig.from_recipe(ce_weight=1)
    assert run.ce_weight == 1.0
    assert type(run.ce_weight) is float


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "card-trimap-w64-s0"),
        ({"scheme": "binary", "width": 16, "seed": 3}, "card-binary-w16-s3"),
        ({"limit": 8}, "card-trimap-w64-s0-n8"),
        ({"name": "my-run"}, "my-run"),
        ({"image_size": 128, "lr": 0.002}, "card-trimap-w64-s0-image-size-128-lr-0.002"),
        ({"init": "runs/one-0.5.safetensors"}, "card-trimap-w64-s0-init-one-0.5"),
        ({"init": "a/run-lr-0.7/model.safetensors"}, "card-trimap-w64-s0-init-run-lr-0.7"),
        ({"init": "run-lr-0.7"}, "card-trimap-w64-s0-init-run-lr-0.7"),
        ({"epochs": 30, "schedule": "cosine"}, "card-trimap-w64-s0"),  # rejected once begun
        ({"device": "cpu"}, "card-trimap-w64-s0"),
    ],
)
def test_run_name(overrides, name):
    assert RunConfig.from_recipe(**overrides).run_name == name


def test_no_run_name_is_too_long_for_a_file_system():
    names = [RunConfig(init="x" * 300, seed=1, lr=lr).run_name for lr in (0.1, 0.2)]
    assert {len(name) for name in names} == {120}
    assert len(set(names)) == 2


def test_a_config_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        RunConfig().epochs = 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"recipe": "cart"}, "unknown recipe 'cart': did you mean 'card'?"),
        ({"epoch": 5}, "unknown parameter 'epoch': did you mean 'epochs'?"),
        ({"batchsize": 5}, "unknown parameter 'batchsize': did you mean 'batch_size'?"),
        ({"device": "cudaa"}, "unknown device 'cudaa': did you mean 'cuda'?"),
        ({"device": ""}, "unknown device '': known are auto, cpu, cuda, mps"),
        ({"precision": "fp23"}, "unknown precision 'fp23': did you mean 'fp32'?"),
        ({"dice_absent": "includes"}, "unknown dice_absent 'includes': did you mean 'include'?"),
        ({"epochs": "5"}, "epochs is '5'; it must be of type int"),
        ({"epochs": 5.0}, "epochs is 5.0; it must be of type int"),
        ({"epochs": True}, "epochs is True; it must be of type int"),
        ({"lr": "1e-4"}, "lr is '1e-4'; it must be of type float"),
        ({"lr": True}, "lr is True; it must be of type float"),
        ({"deterministic": 1}, "deterministic is 1; it must be of type bool"),
        ({"scheme": 3}, "scheme is 3; it must be of type str"),
        ({"image_size": 16}, "image_size is 16; .* at least 32 .*: use 32"),
        ({"image_size": 250}, "image_size is 250; .* multiple of 16 .*: use 256"),
        ({"micro_batches": 3}, "micro_batches is 3 but batch_size is 8: use a number that divi"),
        ({"micro_batches": -1}, "micro_batches is -1; it must not be negative"),
        ({"width": 63}, "width is 63; it must be even"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": -8}, "batch_size is -8; it must be at least 1"),
        ({"lr": 0.0}, "lr is 0.0; it must lie between 0 and 1"),
        ({"lr": 1}, "lr is 1.0; it must lie between 0 and 1"),
        ({"lr": math.nan}, "lr is nan; it must lie between 0 and 1"),
        ({"min_lr": -1e-6}, "min_lr is -1e-06; it must lie between 0 and 1"),
        ({"lr_factor": 1.0}, "lr_factor is 1.0; it must lie between 0 and 1"),
        ({"ce_weight": 0.0, "dice_weight": 0.0}, "ce_weight 0.0 and dice_weight 0.0: .* positive"),
        ({"ce_weight": -0.5}, "ce_weight -0.5 and dice_weight 0.5: neither may be negative"),
        ({"ce_weight": math.nan}, "ce_weight nan and dice_weight 0.5"),
        ({"dice_weight": math.inf}, "dice_weight inf: .* infinite"),
        ({"warmup": 1.5}, "warmup is 1.5; .* less than 1: it is a share of the run's steps"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and less than 1"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1; it must be at least 0 and less than 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; it must be finite and at least 0"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
        ({"weight_decay": 0.1}, "weight_decay is 0.1 but optimizer adam has none: use adamw"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'?"),
        ({"keep": "first"}, "unknown keep 'first': .*best, last"),
        ({"limit": -1}, "limit is -1; it must not be negative"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"lr_patience": -1}, "lr_patience is -1; it must not be negative"),
        ({"name": "../elsewhere"}, r"name is '\.\./elsewhere'; it must be a plain folder name"),
        ({"name": ".."}, r"name is '\.\.'; it must be a plain folder name"),
    ],
)
def test_invalid_settings_are_named(overrides, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        RunConfig.from_recipe(**overrides)


@pytest.mark.parametrize("working_folder", [".", "notebooks", "polyp_utils/data"])
@pytest.mark.parametrize(
    ("variable", "root"),
    [
        ("POLYP_DATA", paths.data_root),
        ("POLYP_CACHE", paths.cache_root),
        ("POLYP_RESULTS", paths.results_root),
    ],
)
def test_relative_folders_start_at_the_repository(
    variable, root, working_folder, pytestconfig, monkeypatch
):
    repo = pytestconfig.rootpath
    monkeypatch.chdir(repo / working_folder)
    monkeypatch.setenv(variable, "../elsewhere/x")
    assert root() == repo.parent / "elsewhere" / "x"
    monkeypatch.setenv(variable, "/absolute")
    assert str(root()) == "/absolute"


def test_default_folders(pytestconfig, monkeypatch, tmp_path):
    for variable in ("POLYP_DATA", "POLYP_CACHE", "POLYP_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # outside the repository: found from the package's own place
    repo = pytestconfig.rootpath
    assert paths.data_root() == repo / "data"
    assert paths.results_root() == repo / "results"
    assert paths.cache_root() == tmp_path / "polyp_utils"


def test_settings_come_from_a_notebooks_variables():
    cells = {"recipe": "quick", "epochs": 5, "width": None, "other": [1], "sheet": 24, "_i": "x"}
    assert RunConfig.from_notebook(cells) == RunConfig.from_recipe("quick", epochs=5)


def test_parameters_that_a_notebook_does_not_have_are_rejected():
    cells = ["", "import os", "recipe: str = 'seed'  # which\nepochs: int = None"]
    check_parameters(cells)
    check_parameters([*cells, "# Parameters\nepochs = 3\n", "later = 1"])
    for slip in ("epoch", "learning_rate", "augmentation"):
        with pytest.raises(ValueError, match=f"unknown parameter '{slip}': .*epochs, recipe"):
            check_parameters([*cells, f"# Parameters\nepochs = 3\n{slip} = 1\n"])


@pytest.mark.parametrize(
    ("overrides", "split", "name"),
    [
        ({}, "random-800-s42", "card-trimap-w64-s0"),
        ({"dataset": "kvasir-seg"}, "random-800-s42", "card-trimap-w64-s0"),
        ({"dataset": "neopolyp", "scheme": "neopolyp"}, "grouped", "card-neopolyp-neopolyp-w64-s0"),
        ({"dataset": "my/frames"}, "grouped", "card-frames-trimap-w64-s0"),
        (
            {"dataset": "neopolyp", "split": "grouped-fold2"},
            "grouped-fold2",
            "card-neopolyp-grouped-fold2-trimap-w64-s0",
        ),
        ({"dataset": "phantom"}, "phantom-240", "card-phantom-trimap-w64-s0"),
        ({"split": "grouped"}, "grouped", "card-grouped-trimap-w64-s0"),
        ({"split": "my/part.csv"}, "my/part.csv", "card-part-trimap-w64-s0"),
    ],
)
def test_another_data_set_brings_its_grouped_split(overrides, split, name):
    run = RunConfig.from_recipe("card", **overrides)
    assert run.split == split
    assert run.run_name == name


def test_new_recipes_are_split_by_group():
    published = {"card", "card-binary", "card-small", "quick"}  # these keep theirs
    assert {RECIPES[name].split for name in RECIPES.keys() - published} == {"grouped"}
