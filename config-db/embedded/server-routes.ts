/** What is asked of the server as a whole: `/`, `/_up`, `/_all_dbs` … */
import { badRequest, notServed } from "./couch-error.ts";
import type { Databases } from "./databases.ts";
import type { Exchange } from "./exchange.ts";
import { limits } from "./limits.ts";
import { requireMethod } from "./methods.ts";
import { newId } from "./writes.ts";

/** The CouchDB whose protocol this is a subset of. Clients look at the number. */
const version = "3.5.0";

export function serveServer(exchange: Exchange, databases: Databases): void {
  const [name = "", ...rest] = exchange.path;
  if (name === "_replicate" || name === "_replicator" || name === "_users") throw notServed(`/${name}`);
  const serve = rest.length === 0 && Object.hasOwn(routes, name) ? routes[name] : undefined;
  if (serve === undefined) throw notServed(`/${exchange.path.join("/").slice(0, 100)}`);
  requireMethod(exchange.method, ["GET", "HEAD"]);
  serve(exchange, databases);
}

const routes: Record<string, ((exchange: Exchange, databases: Databases) => void) | undefined> = {
  __proto__: null as never,
  "": (exchange, databases) =>
    exchange.json(200, {
      couchdb: "Welcome",
      version,
      git_sha: "embedded",
      uuid: databases.uuid,
      features: [],
      vendor: { name: "Muster embedded database (PouchDB)" },
    }),
  _up: (exchange) => exchange.json(200, { status: "ok", seeds: {} }),
  _all_dbs: (exchange, databases) => {
    const { query } = exchange;
    const isDescending = query.flag("descending") ?? false;
    const [start, end] = [query.json("startkey", "start_key"), query.json("endkey", "end_key")];
    const [low, high] = isDescending ? [end, start] : [start, end];
    let names = databases.list();
    if (typeof low === "string") names = names.filter((name) => name >= low);
    if (typeof high === "string") names = names.filter((name) => name <= high);
    if (isDescending) names.reverse();
    const skip = query.count("skip") ?? 0;
    exchange.json(200, names.slice(skip, skip + (query.count("limit") ?? names.length)));
  },
  _uuids: (exchange) => {
    const count = exchange.query.count("count") ?? 1;
    if (count > limits.uuids) throw badRequest(`count parameter too large: at most ${limits.uuids}`);
    exchange.json(200, { uuids: Array.from({ length: count }, newId) }, { "cache-control": "no-cache" });
  },
  _session: (exchange) =>
    exchange.json(200, {
      ok: true,
      userCtx: exchange.user,
      info: { authentication_handlers: ["default"], authenticated: "default" },
    }),
  _active_tasks: (exchange) => exchange.json(200, []),
};
