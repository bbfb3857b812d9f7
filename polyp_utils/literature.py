"""Published figures to place a result, each with the protocol that it was made under.

Figures of different protocols, training sets or test frames are not comparable; `table` keeps what
they were made with beside them, so that no one need guess.
"""

from typing import NamedTuple

import pandas as pd

# What the model card reports; `evaluation.card_scores` has the same keys.
CARD = {"best validation Dice": 0.9036, "test Dice": 0.9169, "test loss": 0.3322}


class Figure(NamedTuple):
    """One published figure.

    Attributes:
        system: the network.
        trained_on: data set and number of frames.
        tested_on: name of the data set in the catalogue.
        protocol: the nearest of `polyp_utils.protocols.PROTOCOLS`.
        dice: mean Dice of the polyp.
        iou: mean IoU; None where it was not given.
        pretrained: whether the encoder had seen other images before.
        size: of the input, in pixels.
        source: where it was published.
    """

    system: str
    trained_on: str
    tested_on: str
    protocol: str
    dice: float
    iou: float | None
    pretrained: bool
    size: int
    source: str


_PRANET = "900 Kvasir-SEG + 550 CVC-ClinicDB"
_PRANET_PAPER = "Fan et al. 2020 and later papers with its protocol"
_DUCK = "80/10/10 of Kvasir-SEG"
_DUCK_PAPER = "DUCK-Net, Dumitru et al. 2023"
_SETS = ("cvc-clinicdb", "cvc-colondb", "etis", "cvc-300")

FIGURES: tuple[Figure, ...] = (
    *(
        Figure(name, _PRANET, "kvasir-seg", "pranet", dice, iou, pretrained, 352, _PRANET_PAPER)
        for name, dice, iou, pretrained in (
            ("U-Net", 0.818, 0.746, False),
            ("U-Net++", 0.821, 0.743, False),
            ("ResUNet++", 0.807, 0.727, False),
            ("PraNet", 0.898, 0.840, True),
            ("Polyp-PVT", 0.917, 0.864, True),
            ("RPFA", 0.929, 0.880, True),
        )
    ),
    *(
        Figure(name, _PRANET, tested_on, "pranet", dice, None, name != "U-Net", 352, _PRANET_PAPER)
        for name, scores in (
            ("U-Net", (0.823, 0.512, 0.398, 0.710)),
            ("PraNet", (0.899, 0.709, 0.628, 0.871)),
            ("Polyp-PVT", (0.937, 0.808, 0.787, 0.900)),
        )
        for tested_on, dice in zip(_SETS, scores, strict=True)
    ),
    *(
        Figure(
            name,
            "80/10/10 of Kvasir-SEG, seed 42",
            "kvasir-seg",
            "at-network-size",
            dice,
            iou,
            True,
            352,
            "Sanderson and Matuszewski 2022",
        )
        for name, dice, iou in (("FCBFormer", 0.9385, 0.8903), ("SSFormer", 0.9357, 0.8905))
    ),
    *(
        Figure(name, _DUCK, "kvasir-seg", "pooled", dice, iou, name == "PraNet", 352, _DUCK_PAPER)
        for name, dice, iou in (
            ("U-Net", 0.8655, 0.7629),
            ("DUCK-34", 0.9502, 0.9051),
            ("PraNet", 0.9094, None),
        )
    ),
    *(
        Figure(
            name,
            "Kvasir-SEG alone",
            "cvc-clinicdb",
            "pooled",
            dice,
            None,
            name == "FCBFormer",
            352,
            _DUCK_PAPER,
        )
        for name, dice in (("U-Net", 0.701), ("DUCK-34", 0.821), ("FCBFormer", 0.831))
    ),
    *(
        Figure(
            name,
            "official 880 of Kvasir-SEG",
            "kvasir-seg",
            "image-mean",
            dice,
            iou,
            name == "SigLIP2",
            320,
            "Kvasir-SigLIP, 3 seeds",
        )
        for name, dice, iou in (("ResUNet", 0.818, 0.733), ("SigLIP2", 0.901, None))
    ),
)


def table(tested_on: str) -> pd.DataFrame:
    """The figures for a data set of the catalogue, a row each; columns as in `Figure`."""
    rows = [figure for figure in FIGURES if figure.tested_on == tested_on]
    return pd.DataFrame(rows, columns=list(Figure._fields))
