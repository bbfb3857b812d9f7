"""False alarms: how much a system marks where there is no polyp.

The data sets show a polyp in nearly every frame, so stand-ins for frames without one are looked at:
parts of frames, and phantoms, see `polyp_free`. Notebook 04 says what that is worth.
"""

import pandas as pd

from polyp_utils.score.intervals import Interval, mean_interval

MIN_SHARE = 1 / 9  # smallest crop, as a share of the frame: enlarged at most threefold
CROPS, WITHIN = "crops beside the polyp", "the same crops, with the whole frame seen"
PHANTOMS = "phantoms without a polyp"
RATES = ("frames with any", "regions per frame", "share of the area")


def false_alarm_rates(table: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """False-alarm rates from `polyp_free.alarm_table`: kind of frames -> rate -> interval.

    Rates are ``frames with any`` (share of frames), ``regions per frame`` and ``share of the
    area``, each a mean with its 95 % interval over groups.
    """
    found = {}
    for frames, part in table.dropna(subset="objects").groupby("frames", sort=False):
        values = (part["objects"] > 0, part["objects"], part["share"])
        intervals = [mean_interval(each, groups=part["group"]) for each in values]
        found[str(frames)] = dict(zip(RATES, intervals, strict=True))
    return found


def alarm_findings(table: pd.DataFrame) -> list[str]:
    """How often there are false alarms, in sentences computed from the table."""
    sentences = []
    for frames, found in false_alarm_rates(table).items():
        share, regions, area = found.values()
        count = round(share.mean * share.n)
        said = f"{frames.capitalize()} ({share.n}): one false alarm or more in {count}, {share}"
        if not count:  # the rule of three, for frames that are independent
            said += f" (with none in {share.n}, the true share may be up to {3 / share.n:.3f})"
        sentences.append(f"{said}; {regions} regions are marked per frame, {area} of the area.")
    crops = table[table["frames"] == CROPS]
    kept = crops["of_frame"].dropna()
    if len(kept):
        sentences.append(
            f"A crop covers {100 * kept.median():.0f} % of its frame (median), so the network "
            f"sees it enlarged {kept.median() ** -0.5:.1f} times; {len(crops) - len(kept)} of "
            f"{len(crops)} frames have no room for one of {100 * MIN_SHARE:.0f} % or more."
        )
    return sentences or ["There was no crop and no phantom to look at."]
