"""Verifies callbacks with the Standard Webhooks library of PyPI, which shares no code with Hookfleet.

Reads one JSON object a line: {"secret", "headers", "body"}, the body in base64. Exits with 1 and says
which line it was if a signature is not good.
"""

import base64
import json
import sys

from standardwebhooks import Webhook

count = 0
for number, line in enumerate(sys.stdin, 1):
    callback = json.loads(line)
    body = base64.b64decode(callback["body"])
    try:
        Webhook(callback["secret"]).verify(body, callback["headers"])
    except Exception as error:  # every kind of refusal is one
        sys.exit(f"line {number}: {type(error).__name__}: {error}")
    count += 1
print(count)
