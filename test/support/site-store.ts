import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";

/**
 * An empty store as a site has it, with its databases: the embedded one in memory, or the CouchDB that
 * MUSTER_TEST_COUCHDB_URL names. That one is for tests alone: its `muster-…` databases are deleted before and after.
 */
export async function startSiteStore(): Promise<Embedded> {
  const { MUSTER_TEST_COUCHDB_URL: couchUrl } = process.env;
  const embedded = couchUrl === undefined ? await startEmbedded() : { url: couchUrl, close: () => empty(couchUrl) };
  if (couchUrl !== undefined) await empty(couchUrl);
  await install(new Store(embedded.url));
  return embedded;
}

async function empty(url: string): Promise<void> {
  const store = new Store(url);
  const standing = await store.request<string[]>({ path: "_all_dbs" });
  for (const name of Object.values(databases)) {
    if (standing.includes(name)) await store.request({ method: "DELETE", path: name });
  }
}
