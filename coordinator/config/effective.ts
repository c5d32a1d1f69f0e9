/** A component's effective settings, computed from the layers in force. Pure. */
import { etagOf } from "./etag.ts";
import { mergeLayers, type Settings } from "./merge.ts";
import type { ChainLink } from "./records.ts";

export interface Effective {
  etag: string;
  settings: Settings;
  /** The settings as JSON, made once: a warm GET sends these bytes. */
  body: Buffer;
}

export function computeEffective(chain: ChainLink[]): Effective {
  const settings = mergeLayers(chain);
  return { etag: etagOf(settings), settings, body: Buffer.from(JSON.stringify(settings)) };
}
