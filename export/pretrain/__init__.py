"""How the default model is trained: synthetic scenes, network, training loop, evaluation and graphs.

Two stages, then the bundle::

    python -m export.pretrain train --config export/pretrain/configs/default.json --output runs/images
    python -m export.pretrain train --config export/pretrain/configs/rollout.json --start runs/images/checkpoint.pt
        --output runs/rollouts
    python -m export.pretrain export --checkpoint runs/rollouts/checkpoint.pt --output runtime/models/default

The first stage trains everything on single images, the second the decoder alone on its own propagation through
volumes. A run that was killed continues when it is started again. The shipped weights come from one run of each; the
first was shortened while it ran (its learning rate fell towards 60,000, then 36,000, 22,000 and in the end 18,000
images), so that a new run repeats its recipe and not its bits.

Knows torch, numpy and OpenCV. Must not know the inside of ``runtime``: the evaluation of bundles and the manifest
go through its public names.
"""

from __future__ import annotations

__all__: list[str] = []
