/** Configuration over HTTP: effective settings for components, layers for operators, who has applied what. */

import { MusterError } from "../../config-db/errors.ts";
import type { ConfigStatusReport, LayerWrite } from "../../config-db/generated/types.ts";
import { type LayerName, parseLayerName } from "../../config-db/names.ts";
import type { Configuration } from "../config/configuration.ts";
import type { StoredLayer } from "../config/records.ts";
import type { JsonAnswer, RequestContext, Route } from "./route.ts";
import { answerOrWait, namesEtag, waitParameter, wantsStream } from "./watch.ts";

const layerPath = "/v1/config/layers/{layer}";
const layerAnswer = { description: "the layer; its revision is the ETag", schema: { type: "object" } };

export function configRoutes({ configuration }: { configuration: Configuration }): Route[] {
  return [...effectiveRoutes(configuration), ...statusRoutes(configuration), ...layerRoutes(configuration)];
}

function effectiveRoutes(configuration: Configuration): Route[] {
  return [
    {
      method: "get",
      path: "/v1/components/{id}/config",
      summary: "The effective settings of a component",
      query: {
        explain: { description: "Names the layer that each value came from.", schema: { type: "boolean" } },
        ...waitParameter,
      },
      streams: true,
      answers: { 200: { description: "the settings", schema: { type: "object" } }, 304: { description: "unchanged" } },
      handle: (request) => {
        const id = request.params.id as string;
        if (wantsStream(request)) return streamEffective(configuration, id, request);
        const explained = request.query.explain === true;
        return answerOrWait(request, {
          read: () => {
            const { etag, settings, body, fault } = configuration.effective(id);
            if (fault !== undefined && !explained) throw fault;
            return { etag, body: explained ? { etag, settings, explain: configuration.explain(id) } : body };
          },
          subscribe: (changed) => configuration.subscribe(id, changed),
        });
      },
    },
  ];
}

/** One `config` event with what stands, unless the reader says that it has it, and one for each change after. */
function streamEffective(configuration: Configuration, id: string, request: RequestContext) {
  return {
    stream: (send: (event: { event: string; id: string; data: unknown }) => void) => {
      let sent = request.header("last-event-id");
      const tell = () => {
        const { etag, body, fault } = configuration.effective(id);
        if (etag === sent || fault !== undefined) return;
        sent = etag;
        send({ event: "config", id: etag, data: { etag, settings: JSON.parse(body.toString()) } });
      };
      const unsubscribe = configuration.subscribe(id, tell);
      tell();
      return unsubscribe;
    },
  };
}

function statusRoutes(configuration: Configuration): Route[] {
  return [
    {
      method: "put",
      path: "/v1/components/{id}/config/status",
      summary: "A component reports that it applied or rejected its settings",
      body: "config-status-report",
      answers: { 204: { description: "noted" } },
      handle: async ({ params, body }) => {
        await configuration.report(params.id as string, body as ConfigStatusReport);
        return { status: 204 };
      },
    },
    {
      method: "get",
      path: "/v1/config/status",
      summary: "How many components have applied their settings, and which have not",
      query: {
        type: { description: "Only components of this type.", schema: { type: "string", maxLength: 63 } },
        ...waitParameter,
      },
      streams: true,
      answers: { 200: { description: "the summary", schema: { type: "object" } } },
      handle: (request) => {
        const type = request.query.type as string | undefined;
        return answerOrWait(request, {
          read: () => configuration.status.read({ type }),
          subscribe: (changed) => configuration.status.subscribe(changed),
        });
      },
    },
  ];
}

function layerRoutes(configuration: Configuration): Route[] {
  return [
    {
      method: "get",
      path: layerPath,
      summary: "A layer's own settings",
      answers: { 200: layerAnswer },
      handle: (request) => {
        const layer = layerOf(request);
        const stored = configuration.records.layer(layer);
        if (stored === undefined) throw new MusterError("not-found", `layer ${layer} is not there; PUT it to make it`);
        const known = request.header("if-none-match");
        if (known !== undefined && namesEtag(known, stored._rev)) {
          return { status: 304, headers: { etag: `"${stored._rev}"` } };
        }
        return layerJson(200, stored);
      },
    },
    {
      method: "put",
      path: layerPath,
      summary: "Replace a layer's settings, or make the layer",
      body: "layer-write",
      answers: { 200: layerAnswer, 201: layerAnswer, 412: { description: "another revision stands there" } },
      handle: async (request) => {
        const { settings } = request.body as LayerWrite;
        const stored = await configuration.layers.put(layerOf(request), settings, writeContext(request));
        return layerJson(stored.version === 1 ? 201 : 200, stored);
      },
    },
    {
      method: "patch",
      path: layerPath,
      summary: "Merge a patch (RFC 7396) into a layer's settings",
      body: "layer-write",
      answers: { 200: layerAnswer, 201: layerAnswer, 412: { description: "another revision stands there" } },
      handle: async (request) => {
        const { settings } = request.body as LayerWrite;
        const stored = await configuration.layers.patch(layerOf(request), settings, writeContext(request));
        return layerJson(stored.version === 1 ? 201 : 200, stored);
      },
    },
    {
      method: "delete",
      path: layerPath,
      summary: "Take a layer away; its history stays",
      answers: { 204: { description: "gone" }, 412: { description: "another revision stands there" } },
      handle: async (request) => {
        await configuration.layers.delete(layerOf(request), writeContext(request));
        return { status: 204 };
      },
    },
  ];
}

function layerOf(request: RequestContext): LayerName {
  return parseLayerName(request.params.layer as string);
}

function writeContext(request: RequestContext) {
  const { note } = (request.body ?? {}) as { note?: string };
  const ifMatch = request.header("if-match");
  const expected =
    ifMatch === undefined ? undefined : (rev: string | undefined) => rev !== undefined && namesEtag(ifMatch, rev);
  return { author: request.author, note, expected };
}

function layerJson(status: number, stored: StoredLayer): JsonAnswer {
  const { layer, settings, version, changedAt, changedBy, site, note, content = {} } = stored;
  const files = Object.entries(content).map(([file, about]) => ({ file, ...about }));
  const body = {
    layer,
    settings,
    version,
    changedAt,
    changedBy,
    site,
    ...(note === undefined ? {} : { note }),
    content: files,
  };
  return { status, headers: { etag: `"${stored._rev}"` }, body };
}
