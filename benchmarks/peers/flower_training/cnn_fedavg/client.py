"""The site: takes the model, trains it on its own images, sends it back."""

from __future__ import annotations

import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from cnn_fedavg import task

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    setting = context.run_config
    site = int(context.node_config.get("partition-id", context.node_config.get("site", 0)))
    module = task.network()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, classes = task.patients(str(setting["data"]), f"site-{site + 1}")
    began = time.perf_counter()
    task.train(module, images, classes, int(setting["epochs"]), int(setting["batch"]), float(setting["rate"]))
    spent = time.perf_counter() - began
    metrics = MetricRecord({"num-examples": len(images), "seconds": spent})
    content = RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
