"""The measures measure what they say; how long anything takes is not tested."""

import os

import pytest

from polyp_utils.bench.data import data_start
from polyp_utils.data import dataset
from polyp_utils.data.dataset import PolypDataset


@pytest.mark.filterwarnings("ignore:Kvasir-SEG has 8 pairs")
@pytest.mark.usefixtures("kvasir_like")
def test_a_cold_start_decodes_although_the_user_has_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    PolypDataset("kvasir-seg", 64)
    decode_all, decoded = dataset._decode_all, []

    def watch(*arguments):
        decoded.append(os.environ["POLYP_CACHE"])
        return decode_all(*arguments)

    monkeypatch.setattr(dataset, "_decode_all", watch)
    measures = data_start("kvasir-seg", 64)
    assert [(m.name, m.unit) for m in measures] == [
        ("frames", ""),
        ("cold start", "s"),
        ("warm start", "s"),
        ("reading", "s"),
        ("size", "MiB"),
    ]
    assert all(m.value > 0 for m in measures)
    values = {m.name: m.value for m in measures}
    assert (values["frames"], values["size"]) == (8, 8 * 64 * 64 * 4 / 2**20)
    (folder,) = decoded  # once, so the warm start found it
    assert not os.path.exists(folder)
    assert os.environ["POLYP_CACHE"] == str(tmp_path / "cache") != folder
