"""What the masks of a set, taken together, leave in doubt."""

import numpy as np
import pytest
from PIL import Image

from polyp_utils.analyse.audit import audit
from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import DataError
from polyp_utils.data import phantom
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.train.fit import fit

WITH_POLYP = [i for i in range(14) if phantom.draw_phantom(i)[1].any()][:10]


def a_set(folder, change=lambda number, mask: mask):
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, index in enumerate(WITH_POLYP):
        image, mask = phantom.draw_phantom(index)
        Image.fromarray(image).save(folder / f"images/{number}.png")
        Image.fromarray(change(number, mask)).save(folder / f"masks/{number}.png")
    return str(folder)


def black(number, mask):
    return mask * 0


def inverted(number, mask):
    return 255 - mask


def two_inverted(number, mask):
    return 255 - mask if number in (3, 4) else mask


def some_full(number, mask):
    return np.full_like(mask, 255) if number < 5 else mask


def a_large_one(number, mask):
    if number == 2:
        mask[mask.shape[0] // 20 :, 5:-5] = 255
    return mask


def wide(number, mask):
    mask[mask.shape[0] // 5 : -mask.shape[0] // 5, 20:-20] = 255
    return mask


DOUBTFUL = {
    inverted: ("inverted mask", r"in 10 of 10 masks \(0, 1, 2 and 7 more\) polyp covers \d+% to"),
    two_inverted: ("inverted mask", r"in 2 of 10 masks \(3, 4\) polyp covers"),
    some_full: ("full mask", r"in 5 of 10 masks \(0, 1, 2 and 2 more\) polyp covers 100% of the"),
    a_large_one: ("large polyp", r"in 1 of 10 masks \(2\) polyp covers 9\d%"),
    wide: (
        "polyp share of the set",
        r"polyp covers \d\d% of the 10 frames, in the known sets 5",
    ),
    black: ("no polyp at all", "none of the 10 masks has a polyp pixel; check that these are the"),
}


@pytest.mark.parametrize("change", DOUBTFUL, ids=lambda change: change.__name__)
def test_loader_and_audit_say_it_once_with_numbers(change, tmp_path):
    check, seen = DOUBTFUL[change]
    name = a_set(tmp_path / "set", change)
    with pytest.warns(UserWarning, match=f"{check}: {seen}") as caught:
        data = PolypDataset(name, 64)
    assert [doubt.check for doubt in data.doubts] == [check]
    assert len(caught) == 1
    found = audit(name).of_severity("doubt")
    assert set(found["check"]) == {check}
    assert len(found) == max(1, len(data.doubts[0].ids))
    assert found["suggestion"].all()


def test_clean_masks_leave_no_doubt(tmp_path):
    name = a_set(tmp_path / "set")
    assert not PolypDataset(name, 64).doubts
    found = audit(name)
    assert not len(found.of_severity("doubt"))
    assert found.masks.startswith("masks hold 2 to 2 levels or colours (median 2), the brightest")
    assert found.masks.endswith(f"{found.frames['polyp_share'].mean():.1%} of all")


def test_masks_that_are_all_full_are_refused(tmp_path):
    name = a_set(tmp_path / "set", lambda number, mask: np.full_like(mask, 255))
    with pytest.raises(DataError, match=r"full mask: in 10 of 10 masks .* must be white or opaque"):
        PolypDataset(name, 64)


def test_a_mask_with_another_white_and_a_turned_image_are_findings(tmp_path):
    def grey(number, mask):
        return mask // 255 * np.uint8(200 if number == 6 else 255)

    name = a_set(tmp_path / "set", grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "set/images/1.png") as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "set/images/1.png", exif=exif)
    found = audit(name).findings.set_index("check")
    assert found.loc["another white", "id"] == "6"
    assert found.loc["another white", "detail"] == "its brightest level is 200, elsewhere 255"
    assert found.loc["EXIF orientation", "id"] == "1"
    assert not len(audit(name).errors)


def config_of(folder, name):
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [f"{number},{part}\n" for number, part in enumerate(parts)]
    (folder / "split.csv").write_text("id,part\n" + "".join(rows))
    small = {"image_size": 32, "width": 2, "epochs": 1, "batch_size": 2, "device": "cpu"}
    split = str(folder / "split.csv")
    return RunConfig.from_recipe("quick", dataset=name, split=split, **small)


def test_a_run_records_what_was_doubtful(tmp_path):
    config = config_of(tmp_path, a_set(tmp_path / "set", two_inverted))
    with pytest.warns(UserWarning, match="inverted mask"):
        run = fit(config)
    assert run.record["doubts"].startswith("inverted mask: in 2 of 10 masks (3, 4)")


def test_a_training_part_without_polyps_is_refused(tmp_path):
    name = a_set(tmp_path / "set", lambda number, mask: mask * 0 if number < 6 else mask)
    with pytest.raises(DataError, match=r"none of the 6 masks in the training part of .* nothing"):
        fit(config_of(tmp_path, name))
