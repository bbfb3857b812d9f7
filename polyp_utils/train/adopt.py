"""A finished run of weights that were trained elsewhere."""

from dataclasses import replace

from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import (
    explaining,
)
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.model.weights import save_weights
from polyp_utils.runs.run import Run
from polyp_utils.train.fit import prepare_training
from polyp_utils.train.initial import find_initial
from polyp_utils.train.learner import Learner
from polyp_utils.train.start import open_run
from polyp_utils.train.trainer import mark_finished, metadata_of, predict_parts


def adopt(config: RunConfig, note: str) -> Run:
    """Makes a finished run of weights that were trained elsewhere, the file ``config.init``.

    They can then be scored, looked at and published like those of a run of this package. What is
    not known of their training (history, time, hardware) is left out.

    Args:
        config: how they were trained, as far as it is known: data set, split, scheme, size, ….
        note: who made them, and how; it stands in the run's record and on its model card.

    Raises:
        ValueError, RunError: as in `fit`.
        WeightsError: not weights of that width and scheme.
    """
    if not config.init or not note:
        raise ValueError("to adopt weights give the file (init) and a note that says who made them")
    with explaining(f"width {config.width}"):
        return _adopted(config, note)


def _adopted(config: RunConfig, note: str) -> Run:
    scheme, compute, parts, fingerprints = prepare_training(config)
    initial = find_initial(config)
    if initial is None or initial.new_head:
        raise WeightsError(f"{config.init} is not of scheme {scheme.name}: give the one it is of")
    fingerprints["init_weights"] = initial.fingerprint
    config = replace(config, init="")  # they are these weights, not what training starts from
    with open_run(config, fingerprints, compute.describe(), note=note) as run:
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
