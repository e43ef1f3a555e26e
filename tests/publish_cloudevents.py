"""Publishes with the CloudEvents library of PyPI, which shares no code with Hookfleet: one event in the
binary mode, one structured, two in a batch, to the URL that is the argument.
"""

import json
import sys
import urllib.request
from datetime import datetime, timezone

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

url = sys.argv[1]


def event(id):
    attributes = {
        "id": id,
        "source": "https://example.com/shop?q=%20",
        "type": "orders.created",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "subject": "größer als 5 %",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    }
    return CloudEvent(attributes, {"orderId": 42})


def post(headers, body):
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request) as response:
        return json.load(response)


binary = to_binary_event(event("binary"))
assert post(binary.headers, binary.body)["deliveryCount"] == 1
structured = to_structured_event(event("structured-0"))
assert post(structured.headers, structured.body)["deliveryCount"] == 1
bodies = [to_structured_event(event(f"structured-{number}")).body for number in (1, 2)]
batch = b"[" + b",".join(bodies) + b"]"
results = post({"content-type": "application/cloudevents-batch+json"}, batch)["results"]
assert [it["receipt"]["deliveryCount"] for it in results] == [1, 1], results
