"""Adopts weights that were trained elsewhere as a finished run."""

from dataclasses import replace

from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import (
    explaining,
)
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.data.naming import full_name
from polyp_utils.model.weights import save_weights
from polyp_utils.runs.run import Run
from polyp_utils.train.fit import prepare_training
from polyp_utils.train.initial import find_initial
from polyp_utils.train.learner import Learner
from polyp_utils.train.start import open_run
from polyp_utils.train.trainer import mark_finished, metadata_of, predict_parts


def adopt(config: RunConfig, note: str) -> Run:
    """Turns weights that were trained elsewhere, the file ``config.init``, into a finished run.

    They can then be scored, inspected and published like those of any run. What is not known about
    their training (history, time, hardware) is left out.

    Args:
        config: how they were trained, as far as is known: data set, split, scheme, size, ….
        note: who made them and how; it goes into the run's record and onto its run card.

    Raises:
        ValueError, RunError: as in `fit`.
        WeightsError: not weights of that width and scheme.
    """
    if not config.init or not note:
        raise ValueError("to adopt weights, give their file (init) and a note on who made them")
    config = replace(config, dataset=full_name(config.dataset))  # as it is recorded
    with explaining(f"width {config.width}"):
        return _adopted(config, note)


def _adopted(config: RunConfig, note: str) -> Run:
    split, scheme, compute, parts, fingerprints, doubts = prepare_training(config)
    initial = find_initial(config)
    if initial is None or initial.new_head:
        raise WeightsError(
            f"{config.init} was not trained with scheme {scheme.name}: give the one it was"
        )
    fingerprints["init_weights"] = initial.fingerprint
    config = replace(config, init="")  # nothing was trained from these weights
    remarks = {"note": note, "doubts": doubts}
    with open_run(config, fingerprints, compute.describe(), split, **remarks) as run:
        if run.finished:
            print(f"{run.name} is finished: nothing to adopt")
            return run
        learner = Learner(config, scheme, compute)
        initial.load(learner.model)
        learner.start_average()
        save_weights(run.weights, learner.kept, metadata_of(run, scheme))
        scores = predict_parts(learner, run, {part: parts[part] for part in config.held_out})
        mark_finished(
            run,
            kept_val_polyp_dice=scores["val"]["polyp_dice"],
            kept_at_network_size=scores,
        )
    return run
