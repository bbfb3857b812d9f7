"""What the speed of a folder comes to: against the card's snippet, and against the stages alone."""

import pandas as pd

LOOP, MAPS, ALL = "card's snippet, class maps", "predict, class maps", "predict, all outputs"
OF_MAPS = ["decode", "resize", "class map and regions", "PNG"]
OF_PICTURES = ["outlines", "thumbnail"]


def folder_findings(table: pd.DataFrame) -> pd.DataFrame:
    """What `folder_speed` comes to, a row per run and way of ``predict``.

    Returns:
        ``frames_per_second``; ``ratio`` to the plain loop; ``beside_network``, milliseconds per
        frame that the network does not take, and ``floor``, what the stages add up to over the
        machine's cores; ``of_floor``, the former over the latter.
    """
    rows = []
    for run, of_run in table.groupby("run", sort=False):
        took = of_run.set_index("what")["milliseconds"]
        for what, stages in ((MAPS, OF_MAPS), (ALL, [*OF_MAPS, *OF_PICTURES])):
            floor = took[stages].sum() / of_run["cores"].iloc[0]
            beside = took[what] - took["network"]
            rows.append(
                {
                    "run": run,
                    "what": what,
                    "frames_per_second": 1e3 / took[what],
                    "ratio": took[LOOP] / took[what],
                    "network": took["network"],
                    "beside_network": beside,
                    "floor": floor,
                    "of_floor": beside / floor,
                }
            )
    return pd.DataFrame(rows)
