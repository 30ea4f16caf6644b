"""Models to be had: published checkpoints, bundles that sites offer, and the store of what was fetched.

`published` lists what the authors published, `content` tells what a bundle or set consists of, `index` reads what a
site offers, `fetch` is the only module of the runtime that uses the network, `store` keeps what arrived, `archive`
carries bundles on a stick, `cli` is ``lite-infer models``. Knows bundles by their manifests; knows no graph, engine or
image.
"""

__all__: list[str] = []
