"""The site: takes the model, adds its own constant to it, sends it back. The mean of the sites' constants is 1.

The constants are there because Flower stores what it sends by its content: three equal answers would travel once.
"""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    site, sites = int(context.node_config["site"]), int(context.node_config["sites"])
    own = np.float32(2 * (site + 1) / (sites + 1))
    answer = ArrayRecord([layer + own for layer in message.content["arrays"].to_numpy_ndarrays()])
    content = RecordDict({"arrays": answer, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
