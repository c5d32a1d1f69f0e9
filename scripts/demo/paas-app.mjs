/**
 * An application inside a restrictive PaaS: it can make outbound HTTP requests and nothing else, and has no client
 * library. Plain `fetch` makes it a full member: registered, configured, and commanded through its inbox.
 */
const { MUSTER_URL = "http://127.0.0.1:8080", MUSTER_COMPONENT_ID = "paas-app", MUSTER_TOKEN } = process.env;
const me = `${MUSTER_URL.split(",")[0]}/v1/components/${MUSTER_COMPONENT_ID}`;
const instance = crypto.randomUUID();
const leaving = new AbortController();

async function ask(method, url, body, headers = {}) {
  const response = await fetch(url, {
    method,
    headers: {
      ...(MUSTER_TOKEN && { authorization: `Bearer ${MUSTER_TOKEN}` }),
      ...(body !== undefined && { "content-type": "application/json" }),
      ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: leaving.signal,
  });
  if (response.status === 404 && method === "GET") await register();
  if (!response.ok && response.status !== 304) throw new Error(`${method} ${url}: ${response.status}`);
  const text = await response.text();
  return { etag: response.headers.get("etag"), status: response.status, body: text && JSON.parse(text) };
}

// Polling the inbox renews the lease: nothing else has to.
async function register() {
  await ask("PUT", me, { type: "paas-app", ttlMs: 60_000, tags: ["demo"], instance });
}

/** Repeats `step` for ever; when it fails, after a pause. */
async function forever(step) {
  while (!leaving.signal.aborted) {
    await step().catch(() => new Promise((resolve) => setTimeout(resolve, 500 + Math.random() * 500)));
  }
}

async function takeMessages() {
  const { body } = await ask("GET", `${me}/inbox?max=10&waitMs=25000`);
  for (const { delivery, kind, id, name } of body.messages) {
    if (kind === "request") {
      await ask("POST", `${me}/inbox/${delivery}/reply`, { body: { uptimeMs: Math.round(process.uptime() * 1000) } });
      continue;
    }
    if (kind !== "signal") {
      await ask("POST", `${MUSTER_URL.split(",")[0]}/v1/events`, {
        name: "handled",
        from: MUSTER_COMPONENT_ID,
        body: { id, name },
      });
    }
    await ask("POST", `${me}/inbox/${delivery}/ack`);
  }
}

let etag;
async function followConfiguration() {
  const known = etag === undefined ? {} : { "if-none-match": etag };
  const answer = await ask("GET", `${me}/config${etag === undefined ? "" : "?waitMs=25000"}`, undefined, known);
  if (answer.status === 304) return;
  etag = answer.etag;
  await ask("PUT", `${me}/config/status`, { etag: etag.replaceAll('"', ""), status: "applied" });
}

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    leaving.abort();
    const headers = MUSTER_TOKEN ? { authorization: `Bearer ${MUSTER_TOKEN}` } : {};
    await fetch(me, { method: "DELETE", headers, signal: AbortSignal.timeout(2_000) }).catch(() => undefined);
    process.exit(0);
  });
}

while (
  !(await register().then(
    () => true,
    () => false,
  ))
) {
  await new Promise((resolve) => setTimeout(resolve, 500));
}
await Promise.all([forever(takeMessages), forever(followConfiguration)]);
