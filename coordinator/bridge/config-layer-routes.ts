/** Layers over HTTP: their settings, history, raw content and staged candidates. */
import { MusterError } from "../../config-db/errors.ts";
import type { CandidateWrite, LayerWrite, RollbackRequest } from "../../config-db/generated/types.ts";
import { limits } from "../../config-db/limits.ts";
import { documentId, type LayerName, parseLayerName } from "../../config-db/names.ts";
import type { Configuration } from "../config/configuration.ts";
import { etagOf, etagOfCanonical } from "../config/etag.ts";
import type { Expected, WriteContext } from "../config/guarded-write.ts";
import { historyPage } from "../config/history-pages.ts";
import type { StoredCandidate, StoredLayer } from "../config/records.ts";
import { Idempotency } from "../messaging/idempotency.ts";
import type { JsonAnswer, QueryParameter, RequestContext, Route } from "./route.ts";
import { namesEtag } from "./watch.ts";

const layerPath = "/v1/config/layers/{layer}";
const object = { type: "object" };
const layer200 = { description: "the layer; its revision is the ETag", schema: object };
export const unchanged304 = { description: "unchanged" };
const stale412 = { description: "another revision stands there than If-Match names" };
const refused422 = { description: "it would make components' settings invalid: which, where and why" };
const refusedPost422 = {
  description: `${refused422.description}; or the Idempotency-Key came with another request before`,
};

const pageParameters: Record<"limit" | "cursor", QueryParameter> = {
  limit: {
    description: "At most so many.",
    schema: { type: "integer", minimum: limits.page.min, maximum: limits.page.max },
  },
  cursor: { description: "The `cursor` of the page before.", schema: { type: "string", maxLength: 200 } },
};

export function layerRoutes(configuration: Configuration): Route[] {
  const once = onceByKey();
  return [
    ...settingsRoutes(configuration),
    ...historyRoutes(configuration, once),
    ...contentRoutes(configuration),
    ...candidateRoutes(configuration, once),
  ];
}

function settingsRoutes(configuration: Configuration): Route[] {
  const { layers, records } = configuration;
  const written = (stored: StoredLayer) => layerAnswer(configuration, stored.version === 1 ? 201 : 200, stored);
  return [
    {
      method: "get",
      path: "/v1/config/layers",
      summary: "The layers there are, by name",
      query: pageParameters,
      answers: { 200: { description: "`layers`, without their settings", schema: object }, 304: unchanged304 },
      handle: (request) => hashedAnswer(request, listLayers(configuration, request.query)),
    },
    {
      method: "get",
      path: layerPath,
      summary: "A layer's own settings",
      answers: { 200: layer200, 304: unchanged304 },
      handle: (request) => {
        const layer = layerOf(request);
        const stored = records.layer(layer);
        if (stored === undefined) throw new MusterError("not-found", `layer ${layer} is not there; PUT it to make it`);
        return unlessKnown(request, layerAnswer(configuration, 200, stored));
      },
    },
    {
      method: "put",
      path: layerPath,
      summary: "Replace a layer's settings, or make the layer",
      body: "layer-write",
      answers: { 200: layer200, 201: layer200, 412: stale412, 422: refused422 },
      handle: async (request) => {
        const { settings } = request.body as LayerWrite;
        return written(await layers.put(layerOf(request), settings, writeContext(request)));
      },
    },
    {
      method: "patch",
      path: layerPath,
      summary: "Merge a patch (RFC 7396) into a layer's settings",
      body: "layer-write",
      answers: { 200: layer200, 201: layer200, 412: stale412, 422: refused422 },
      handle: async (request) => {
        const { settings } = request.body as LayerWrite;
        return written(await layers.patch(layerOf(request), settings, writeContext(request)));
      },
    },
    {
      method: "delete",
      path: layerPath,
      summary: "Take a layer away; its history stays",
      answers: { 204: { description: "gone" }, 412: stale412, 422: refused422 },
      handle: async (request) => {
        await layers.delete(layerOf(request), writeContext(request));
        return { status: 204 };
      },
    },
  ];
}

function historyRoutes(configuration: Configuration, once: Once): Route[] {
  return [
    {
      method: "get",
      path: `${layerPath}/history`,
      summary: "What a layer was, the newest version first, with what each changed",
      query: pageParameters,
      answers: {
        200: { description: "`versions`, and a `cursor` where there are more", schema: object },
        304: unchanged304,
      },
      handle: async (request) => {
        const { limit = limits.page.default, cursor } = request.query as { limit?: number; cursor?: string };
        return hashedAnswer(request, await historyPage(configuration.history, layerOf(request), { limit, cursor }));
      },
    },
    {
      method: "post",
      path: `${layerPath}/rollback`,
      summary: "Write what an earlier version was as a new version",
      body: "rollback-request",
      answers: { 200: layer200, 412: stale412, 422: refusedPost422 },
      handle: (request) =>
        once(request, "rollback", async () => {
          const { version, rev } = request.body as RollbackRequest;
          const stored = await configuration.layers.rollback(layerOf(request), { version, rev }, writeContext(request));
          return layerAnswer(configuration, 200, stored);
        }),
    },
  ];
}

function contentRoutes(configuration: Configuration): Route[] {
  const path = `${layerPath}/content/{file}`;
  const { content } = configuration;
  return [
    {
      method: "get",
      path,
      summary: "A file beside a layer's settings: its own bytes and media type",
      answers: {
        200: { description: "the bytes; the ETag is a hash of them and the media type", media: "*/*" },
        304: unchanged304,
      },
      handle: async (request) => {
        const { contentType, sha256, bytes } = await content.read(layerOf(request), request.params.file as string);
        // Anyone who may write it chose the media type: a browser must not run it as a page of this origin.
        const headers = {
          etag: `"${etagOf([sha256, contentType])}"`,
          "content-type": contentType,
          "x-content-type-options": "nosniff",
          "content-security-policy": "sandbox",
        };
        return unlessKnown(request, { status: 200, headers, body: bytes });
      },
    },
    {
      method: "put",
      path,
      summary: "Add or replace a file: a new version of the layer",
      body: "bytes",
      answers: {
        200: layer200,
        201: layer200,
        412: stale412,
        422: { description: "the layer has as many files as it may have" },
      },
      handle: async (request) => {
        const contentType = request.header("content-type") ?? "application/octet-stream";
        const file = { contentType, bytes: request.body as Buffer };
        const name = request.params.file as string;
        const stored = await content.put(layerOf(request), name, file, writeContext(request));
        return layerAnswer(configuration, stored.version === 1 ? 201 : 200, stored);
      },
    },
    {
      method: "delete",
      path,
      summary: "Take a file away: a new version of the layer",
      answers: { 204: { description: "gone" }, 412: stale412 },
      handle: async (request) => {
        await content.delete(layerOf(request), request.params.file as string, writeContext(request));
        return { status: 204 };
      },
    },
  ];
}

function candidateRoutes(configuration: Configuration, once: Once): Route[] {
  const path = `${layerPath}/candidate`;
  const { candidates, records } = configuration;
  const candidate200 = { description: "the candidate, and what its components made of it", schema: object };
  return [
    {
      method: "get",
      path,
      summary: "A layer's staged change: who has it, who applied or rejected it",
      answers: { 200: candidate200, 304: unchanged304 },
      handle: (request) => {
        const layer = layerOf(request);
        const stored = records.candidate(layer);
        if (stored === undefined)
          throw new MusterError("not-found", `layer ${layer} has no candidate; PUT one to stage it`);
        return unlessKnown(request, candidateAnswer(configuration, 200, stored));
      },
    },
    {
      method: "put",
      path,
      summary: "Stage settings for some components, in place of the layer's own",
      body: "candidate-write",
      answers: { 200: candidate200, 201: candidate200, 412: stale412, 422: refused422 },
      handle: async (request) => {
        const stored = await candidates.put(
          layerOf(request),
          request.body as CandidateWrite,
          candidateContext(request),
        );
        return candidateAnswer(configuration, stored.version === 1 ? 201 : 200, stored);
      },
    },
    {
      method: "delete",
      path,
      summary: "Withdraw a staged change",
      answers: { 204: { description: "gone" }, 412: stale412 },
      handle: async (request) => {
        await candidates.delete(layerOf(request), candidateContext(request));
        return { status: 204 };
      },
    },
    {
      method: "post",
      path: `${path}/promote`,
      summary: "Make a staged change the layer, for all",
      body: "promotion-request",
      bodyOptional: true,
      answers: {
        200: layer200,
        409: { description: "the layer was changed since" },
        412: { description: "another candidate stands there than If-Match names" },
        422: refusedPost422,
      },
      handle: (request) =>
        once(request, "promote", async () => {
          const stored = await candidates.promote(layerOf(request), candidateContext(request));
          return layerAnswer(configuration, 200, stored);
        }),
    },
  ];
}

type Once = (request: RequestContext, route: string, write: () => Promise<JsonAnswer>) => Promise<JsonAnswer>;

/** A POST that comes again under its `Idempotency-Key` is answered as it was before, and writes nothing. */
function onceByKey(): Once {
  const idempotency = new Idempotency();
  return (request, route, write) => {
    const key = request.header("idempotency-key");
    const input = { route, layer: layerOf(request), body: request.body, ifMatch: request.header("if-match") };
    return idempotency.once({ scope: request.author, key, input }, write);
  };
}

function listLayers({ records }: Configuration, query: RequestContext["query"]) {
  const { limit = limits.page.default, cursor = "" } = query as { limit?: number; cursor?: string };
  const names = [...records.layers.keys()].filter((name) => name > cursor && records.layer(name) !== undefined).sort();
  const page = names.slice(0, limit);
  const layers = page.map((name) => {
    const { layer, version, changedAt, changedBy, site, note } = records.layer(name) as StoredLayer;
    return { layer, version, changedAt, changedBy, site, ...(note === undefined ? {} : { note }) };
  });
  return names.length > limit ? { layers, cursor: page.at(-1) } : { layers };
}

function layerOf(request: RequestContext): LayerName {
  return parseLayerName(request.params.layer as string);
}

/** Who writes, with what note, and on which revision. */
export function writeContext(request: RequestContext): WriteContext {
  const note = Buffer.isBuffer(request.body) ? undefined : (request.body as { note?: string } | undefined)?.note;
  const ifMatch = request.header("if-match");
  return { author: request.author, note, expected: ifMatch === undefined ? undefined : expectedBy(ifMatch) };
}

/** Of a candidate's ETag the revision counts: what components make of it changes without a write. */
function candidateContext(request: RequestContext): WriteContext {
  const ifMatch = request.header("if-match")?.replaceAll(/\.[^",]*"/g, '"');
  return { ...writeContext(request), expected: ifMatch === undefined ? undefined : expectedBy(ifMatch) };
}

function expectedBy(ifMatch: string): Expected {
  const generations = [...ifMatch.matchAll(/"(\d+)-/g)].map(([, digits]) => Number(digits));
  return { matches: (rev) => rev !== undefined && namesEtag(ifMatch, rev), generation: Math.max(0, ...generations) };
}

/** 304 where the client has this already. */
export function unlessKnown(request: RequestContext, answer: JsonAnswer): JsonAnswer {
  const known = request.header("if-none-match");
  const etag = answer.headers?.etag ?? "";
  return known !== undefined && namesEtag(known, etag.slice(1, -1)) ? { status: 304, headers: { etag } } : answer;
}

/** What has no revision of its own: a hash of what it says is the ETag. */
export function hashedAnswer(request: RequestContext, body: unknown): JsonAnswer {
  // Not of the canonical form, which faults may not have: they tell of what came in broken.
  const etag = etagOfCanonical(JSON.stringify(body));
  return unlessKnown(request, { status: 200, headers: { etag: `"${etag}"` }, body });
}

function layerAnswer({ records }: Configuration, status: number, stored: StoredLayer): JsonAnswer {
  const { layer, settings, version, changedAt, changedBy, site, note, content = {} } = stored;
  const held = records.held.get(documentId.layer(layer as LayerName));
  const body = {
    layer,
    settings,
    version,
    changedAt,
    changedBy,
    site,
    ...(note === undefined ? {} : { note }),
    content: Object.entries(content).map(([file, about]) => ({ file, ...about })),
    ...(held?.rev === stored._rev
      ? { held: { active: held.active && { version: held.active.version, rev: held.active.rev }, errors: held.errors } }
      : {}),
  };
  return { status, headers: { etag: `"${stored._rev}"` }, body };
}

function candidateAnswer(
  { staging, candidates, records }: Configuration,
  status: number,
  stored: StoredCandidate,
): JsonAnswer {
  const { _id, _rev, kind, schemaVersion, ...told } = stored;
  const components = stored.state === "staged" ? staging.statuses(stored) : [];
  components.sort((a, b) => (a.id < b.id ? -1 : 1));
  const body = {
    ...told,
    stale: stored.state === "staged" && candidates.isStale(stored),
    ...(records.isHeld(stored) ? { held: { errors: records.held.get(_id)?.errors } } : {}),
    components,
  };
  return { status, headers: { etag: `"${_rev}.${etagOfCanonical(JSON.stringify(body))}"` }, body };
}
