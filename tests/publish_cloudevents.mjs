// Publishes with the CloudEvents library of npm, which shares no code with Hookfleet: one event in the binary mode, one
// structured, two in a batch, to the URL that is the argument.

import assert from 'node:assert';
import { createRequire } from 'node:module';

// The library lives where `tests/run` has installed it.
const require = createRequire(new URL('../target/test-tools/', import.meta.url));
const { CloudEvent, HTTP, CONSTANTS } = require('cloudevents');

const url = process.argv[2];
const event = (id) =>
  new CloudEvent({
    id,
    source: 'https://example.com/shop',
    type: 'orders.created',
    datacontenttype: 'application/json',
    subject: 'greater than 5 percent',
    time: '2026-01-02T03:04:05Z',
    data: { orderId: 42 },
  });

async function post({ headers, body }) {
  const response = await fetch(url, { method: 'POST', headers, body });
  const answer = await response.json();
  assert.equal(response.status, 200, JSON.stringify(answer));
  return answer;
}

assert.equal((await post(HTTP.binary(event('binary')))).deliveryCount, 1);
assert.equal((await post(HTTP.structured(event('structured-0')))).deliveryCount, 1);
const events = [1, 2].map((number) => HTTP.structured(event(`structured-${number}`)).body);
const headers = { 'content-type': CONSTANTS.MIME_CE_BATCH };
const { results } = await post({ headers, body: `[${events}]` });
assert.deepEqual(results.map((it) => it.receipt.deliveryCount), [1, 1]);
