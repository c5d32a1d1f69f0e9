const bodyBytes = 1024 * 1024;

/** Every limit that more than one part keeps to, with its reason. docs/protocol.md lists them. */
export const limits = {
  /** A message body, a layer's settings, a content file. The recommendation assumes payloads "well under 1 MiB". */
  bodyBytes,
  /** A request around a body, which may be base64. */
  requestBytes: Math.ceil(bodyBytes / 3) * 4 + 64 * 1024,
  /** Long polls end by then, under the idle time-outs of common proxies. */
  waitMs: 60_000,
  ttlMs: { min: 1_000, max: 3_600_000, default: 30_000 },
  /** Of a site's heartbeat. One that another site believed and that were longer would hide that it fell silent. */
  beatEveryMs: { min: 100, max: 3_600_000 },
  page: { min: 1, max: 1_000, default: 100 },
  /** Nesting of settings: deeper input is an attack or a mistake, and recursion over it must stay safe. */
  settingsDepth: 64,
} as const;
