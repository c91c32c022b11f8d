"""The site of `nvflare_network.py`: takes the model, adds 1 to it, sends it back. NVFlare runs it in its job process."""

from __future__ import annotations

import nvflare.client as flare

KEY = "numpy_key"
"""NVFlare's name for the one array of a NumPy model."""

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    flare.send(flare.FLModel(params={KEY: model.params[KEY] + 1}, metrics={"accuracy": 0.0}))
