/** Sites and conflicts over HTTP: how replication stands, which peers there are, what operators have to decide. */
import { createHash } from "node:crypto";
import { MusterError } from "../../config-db/errors.ts";
import type { ConflictResolution, SitePeer } from "../../config-db/generated/types.ts";
import type { ListedConflict } from "../sites/conflict.ts";
import type { SiteRow } from "../sites/sites.ts";
import type { Route } from "./route.ts";
import { answerOrWait, type Watchable, waitParameter } from "./watch.ts";

export interface SiteRoutesOptions {
  sites: {
    list(): SiteRow[];
    get(name: string): SiteRow | undefined;
    add(peer: SitePeer): Promise<boolean>;
    remove(name: string): Promise<void>;
    subscribe(changed: () => void): () => void;
  };
  conflicts: {
    list(): ListedConflict[];
    resolve(id: string, resolution: ConflictResolution, author: string): Promise<ListedConflict>;
    subscribe(changed: () => void): () => void;
  };
}

const listOf = (name: string) => ({ type: "object", required: [name], properties: { [name]: { type: "array" } } });

export function siteRoutes({ sites, conflicts }: SiteRoutesOptions): Route[] {
  return [...peerRoutes(sites), ...conflictRoutes(conflicts)];
}

function peerRoutes(sites: SiteRoutesOptions["sites"]): Route[] {
  return [
    {
      method: "get",
      path: "/v1/sites",
      summary: "All sites as this one sees them, and how replication with its peers stands",
      query: waitParameter,
      answers: { 200: { description: "the sites", schema: listOf("sites") }, 304: { description: "as you know them" } },
      handle: (request) => answerOrWait(request, watchable("sites", sites, markOfSite)),
    },
    {
      method: "post",
      path: "/v1/sites",
      summary: "Replicate with another site from now on",
      body: "site-peer",
      answers: {
        200: { description: "it was a peer; its URLs are as said now", schema: { type: "object" } },
        201: { description: "it is a peer now", schema: { type: "object" } },
        422: { description: "the name of this site, or one peer too many" },
      },
      handle: async (request) => {
        const peer = request.body as SitePeer;
        const isNew = await sites.add(peer);
        return { status: isNew ? 201 : 200, body: sites.get(peer.name) };
      },
    },
    {
      method: "delete",
      path: "/v1/sites/{site}",
      summary: "Replicate with a peer no more; what came from it stays",
      answers: { 204: { description: "no peer any more" } },
      handle: async (request) => {
        await sites.remove(request.params.site as string);
        return { status: 204 };
      },
    },
  ];
}

function conflictRoutes(conflicts: SiteRoutesOptions["conflicts"]): Route[] {
  return [
    {
      method: "get",
      path: "/v1/conflicts",
      summary: "Settings that sites changed at once, each in its own way",
      query: waitParameter,
      answers: {
        200: { description: "the open conflicts", schema: listOf("conflicts") },
        304: { description: "as you know them" },
      },
      handle: (request) => answerOrWait(request, watchable("conflicts", conflicts)),
    },
    {
      method: "get",
      path: "/v1/conflicts/{conflict}",
      summary: "One open conflict: both sides and what was there before",
      answers: { 200: { description: "the conflict", schema: { type: "object" } } },
      handle: ({ params: { conflict: id = "" } }) => {
        const found = conflicts.list().find((conflict) => conflict.id === id);
        if (found !== undefined) return { status: 200, body: found };
        throw new MusterError(
          "not-found",
          `no open conflict ${id.slice(0, 100)}; GET /v1/conflicts lists those that are`,
        );
      },
    },
    {
      method: "post",
      path: "/v1/conflicts/{conflict}/resolution",
      summary: "Close a conflict by choosing a side or giving another value",
      body: "conflict-resolution",
      answers: {
        200: { description: "closed, at all sites; as it was", schema: { type: "object" } },
        422: { description: "no such candidate, or a value that may not stand there" },
      },
      handle: async ({ params: { conflict: id = "" }, body, author }) => ({
        status: 200,
        body: await conflicts.resolve(id, body as ConflictResolution, author),
      }),
    },
  ];
}

/** @param mark what of a row makes it another one: a lag that grows is not worth an answer of its own. */
function watchable<Row>(
  name: string,
  from: { list(): Row[]; subscribe(changed: () => void): () => void },
  mark: (row: Row) => unknown = (row) => row,
): Watchable {
  return {
    read: () => {
      const rows = from.list();
      const etag = createHash("sha256")
        .update(JSON.stringify(rows.map(mark)))
        .digest("base64url")
        .slice(0, 22);
      return { etag, body: { [name]: rows } };
    },
    subscribe: (changed) => from.subscribe(changed),
  };
}

const markOfSite = ({ name, peer, state, coordinatorUrl, couchdbUrl, lastError }: SiteRow) => [
  name,
  peer,
  state,
  coordinatorUrl,
  couchdbUrl,
  lastError,
];
