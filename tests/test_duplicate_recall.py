"""Known copies are what their names say, and the search finds them among real frames."""

import numpy as np
import pytest

from polyp_utils.analyse import duplicate_recall
from polyp_utils.analyse.duplicate_recall import known_copies, recall_of_copies
from polyp_utils.data.sources import FolderSource


def test_known_copies_do_what_they_say():
    image = np.random.default_rng(0).integers(1, 200, (100, 140, 3)).astype(np.uint8)
    copies = known_copies(image, np.random.default_rng(0))
    assert copies["25 % cropped"].shape == (75, 105, 3)
    np.testing.assert_array_equal(copies["mirrored"], image[:, ::-1])
    assert copies["darker by 30 %"].mean() == pytest.approx(0.7 * image.mean(), abs=1)
    assert (copies["shifted by 10 %"] == 0).all(axis=-1).any()
    assert (copies["zoomed to 80 %"][:9] == 0).all()
    for copy in copies.values():
        assert copy.dtype == np.uint8


@pytest.mark.data
def test_recall_of_copies_on_real_frames(kvasir_root, monkeypatch):
    """A few copies of real frames; `python -m polyp_utils audit --recall 200` measures recall."""
    source = FolderSource(kvasir_root / "Kvasir-SEG")
    source.ids = source.ids[::100]
    monkeypatch.setattr(duplicate_recall, "open_source", lambda info: source)
    found = recall_of_copies("kvasir-seg", 3).set_index("copy")
    assert (found["n"] == 3).all()
    assert found.loc["JPEG at quality 30", "found"] >= 2
    assert found["found"].sum() >= 24  # of 30
    assert ((found["low"] <= found["recall"]) & (found["recall"] <= found["high"])).all()
