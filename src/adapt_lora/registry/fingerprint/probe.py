"""What the base model knows of a label task without saying it: a linear probe on its states."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from adapt_lora.registry.records import Fingerprint

PROBE_FOLDS = 3
"""Folds of the cross-validation; a label needs a row in each."""

_STRENGTH = 0.01  # of scikit-learn's C, on standardised states
_MIN_ROWS = 24


def probe_part(
    hidden: Mapping[str, NDArray[np.floating]],
    prompts: Sequence[str],
    gold: Sequence[str | None],
    *,
    seed: int = 0,
) -> Fingerprint:
    """How well a linear probe on the base's hidden states tells the labels of unseen rows.

    What a probe reads there and the base does not say is ability that an adapter may unlock: probe
    minus base score goes with the mean gain of adapters over tasks (docs/science.md). Logistic
    regression with balanced classes on mean states over the prompt, both depths side by side, each
    dimension standardised on the training folds; stratified folds; balanced accuracy of all rows as
    they were held out (Alain & Bengio 2017, arXiv:1610.01644, for probes of this kind).

    Args:
        hidden: "mid" and "last", each (n_rows, d).
        prompts: Prompt of each row; of equal prompts the first one counts, since one that was
            learned from is not unseen.
        gold: Label of each row; None where it has none.
        seed: Of the folds.

    Returns:
        `probe_score` and `n_rows_probed`; nothing with a note where fewer than two labels have a
        row for each fold, or there are fewer than two dozen rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states = np.concatenate([hidden[depth] for depth in sorted(hidden)], axis=1, dtype=np.float64)
    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    usable = [i for i in sorted(first.values()) if np.isfinite(states[i]).all()]
    counts: dict[str, int] = {}
    for i in usable:
        if (label := gold[i]) is not None:
            counts[label] = counts.get(label, 0) + 1
    kept = [i for i in usable if counts.get(gold[i] or "", 0) >= PROBE_FOLDS]
    truth = np.array([gold[i] for i in kept], dtype=np.str_)
    if len(kept) < _MIN_ROWS or len(np.unique(truth)) < 2:
        note = (
            f"No probe: it needs {_MIN_ROWS} rows read, and two labels with {PROBE_FOLDS} of them."
        )
        return Fingerprint(notes=(note,))
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=300)
    )
    folds = StratifiedKFold(PROBE_FOLDS, shuffle=True, random_state=seed)
    said = cross_val_predict(probe, states[kept], truth, cv=folds)
    score = float(balanced_accuracy_score(truth, said))
    return Fingerprint(values={"probe_score": score, "n_rows_probed": float(len(kept))})
