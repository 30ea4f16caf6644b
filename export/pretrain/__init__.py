"""How the default model is trained: synthetic scenes, network, training loop, evaluation and graphs.

One command makes the default model, in two stages and a conversion; `train`, `evaluate` and `export` are its parts::

    python -m export.pretrain reproduce --output runs
    python -m export.pretrain evaluate FOLDER --bundle runs/bundle

The first stage trains everything on single images, the second the decoder alone on its own propagation through
volumes. A run that was killed continues when it is started again. The shipped weights come from one run of each; the
first was shortened while it ran (its learning rate fell towards 60,000, then 36,000, 22,000 and in the end 18,000
images), so that a new run repeats its recipe and not its bits.

The development images trained nothing, but they chose: stage 2 was also run with fewer loose first boxes and a longer
schedule (tight box +.004, propagation no better beyond noise, not shipped), averaging the two stages' weights was
tried (in between), and the margin of the propagation was set on them. Figures on them are therefore a little
flattering, those of propagation (seven volumes, one seed) most of all.

Knows torch, numpy and OpenCV. Must not know the inside of ``runtime``: the evaluation of bundles and the manifest
go through its public names.
"""

from __future__ import annotations

__all__: list[str] = []
